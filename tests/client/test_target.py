"""Where the gateway is and which key a command shows: flags, variables, and the file of settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.client.target import DEFAULT_URL, Target, TargetError, find


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder for the file of settings."""
    (tmp_path / "kestrel-gateway").mkdir()
    return tmp_path


def write(home: Path, text: str) -> dict[str, str]:
    """The environment in which this is the file of settings."""
    (home / "kestrel-gateway" / "client.toml").write_text(text)
    return {"XDG_CONFIG_HOME": str(home)}


def test_without_anything_it_is_this_machine(home: Path):
    """The default needs no file."""
    assert find(environment={"XDG_CONFIG_HOME": str(home / "none")}) == Target(DEFAULT_URL)


def test_flags_outrank_variables_and_these_the_file(home: Path):
    """Each of the three, and the slash at the end of a URL is left out."""
    variables = write(home, 'url = "http://file:1/"\nkey = "from-file"\n')
    assert find(environment=variables) == Target("http://file:1", "from-file")
    variables |= {"KESTREL_GATEWAY_URL": "http://variable:2", "KESTREL_GATEWAY_KEY": "from-variable"}
    assert find(environment=variables) == Target("http://variable:2", "from-variable")
    assert find(url="https://flag/jobs", key="from-flag", environment=variables) == Target(
        "https://flag/jobs", "from-flag"
    )


def test_a_key_of_the_file_goes_to_no_other_gateway(home: Path):
    """A URL from a flag or a variable takes only a key from a flag or a variable, unless it is the file's own."""
    variables = write(home, 'url = "http://file:1"\nkey = "from-file"\n')
    assert find(url="http://other", environment=variables).key == ""
    assert find(environment=variables | {"KESTREL_GATEWAY_URL": "http://other"}).key == ""
    assert find(url="http://file:1", environment=variables).key == "from-file"


def test_key_files(home: Path):
    """A key may be in a file, named by each of the three."""
    (home / "key").write_text("secret\n")
    assert find(key_file=home / "key", environment={}).key == "secret"
    assert find(environment={"KESTREL_GATEWAY_KEY_FILE": str(home / "key")}).key == "secret"
    assert find(environment=write(home, f'key_file = "{home / "key"}"')).key == "secret"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("url = 1", "url is not a string"),
        ("uri = 'x'", "'uri' is not a setting; the settings are url, key, key_file"),
        ("url", "cannot be read"),
        ("url = 'ftp://x'", "'ftp://x' is not a URL such as"),
        ("key = 'a b'", "visible ASCII"),
        ("key_file = '/nonexistent/key'", "/nonexistent/key cannot be read"),
    ],
)
def test_mistakes_in_the_file_say_where(home: Path, text: str, message: str):
    """A setting that is misspelt is not ignored."""
    with pytest.raises(TargetError, match=message):
        find(environment=write(home, text))


def test_mistakes_in_flags():
    """A file that was named must exist, and one key is enough."""
    with pytest.raises(TargetError, match="does not exist"):
        find(config=Path("/nonexistent/client.toml"), environment={})
    with pytest.raises(TargetError, match="give only one"):
        find(key="a", key_file=Path("b"), environment={})
    with pytest.raises(TargetError, match="key: the value is empty"):
        find(key="", environment={})
    for url in ("", "http://a\x01b", "http://a/\x7f", "http://a..b:80", f"http://{'a' * 64}"):
        with pytest.raises(TargetError, match="is not a URL such as"):
            find(url=url, environment={})


def test_an_empty_key_file_is_a_mistake(home: Path):
    """A secret that was not written yet does not make the calls go without a key."""
    file = home / "empty"
    file.write_text("\n")
    for environment in ({"KESTREL_GATEWAY_KEY_FILE": str(file)}, write(home, f"key_file = '{file}'")):
        with pytest.raises(TargetError, match=f"key-file: {file} is empty"):
            find(environment=environment)
    with pytest.raises(TargetError, match=f"key-file: {file} is empty"):
        find(key_file=file, environment={"KESTREL_GATEWAY_KEY": "k"})


def test_a_key_is_not_shown():
    """The repr of a target, as in a traceback, has no key."""
    assert "secret" not in repr(Target("http://x", "secret"))
