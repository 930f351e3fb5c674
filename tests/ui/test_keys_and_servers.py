"""The page with keys, and with two servers behind the gateway."""

import pytest

from tests.api.keyring import Keyring
from tests.lab.broker import BrokerProcess
from tests.lab.gateway import running
from tests.ui.test_access import findings
from tests.ui.test_page import button, cell, enqueue, expect, row

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    """A gateway with tenants, and its keys."""
    folder = tmp_path_factory.mktemp("keyed")
    keyring = Keyring(folder / "keys.toml")
    keyring.add("boss", "acme")
    keyring.add("watcher", "acme", "observe")
    keyring.add("web", "acme", "produce")
    keyring.add("ops", "", "operator")
    with running(folder / "data", "--keys", str(keyring.path)) as gateway:
        with keyring.client(gateway, "boss") as http:
            enqueue(http, "orders", 2)
        yield gateway, keyring


def enter(page, secret):
    page.get_by_label("Key", exact=True).fill(secret)
    button(page, "Continue").click()


def test_a_key_is_entered_once_and_kept_in_its_tab(keyed, open_page):
    """A wrong one is refused with a reason. The key is in no URL and no cookie, and another tab does not have it."""
    gateway, keyring = keyed
    page = open_page(gateway.url + "/ui/")
    urls = []
    page.on("request", lambda request: urls.append(request.url))
    enter(page, "kg_wrong")
    page.get_by_text("the key is unknown").wait_for()
    enter(page, keyring.secrets["boss"])
    expect(cell(page, "orders", "Waiting"), "2")
    page.reload()
    expect(cell(page, "orders", "Waiting"), "2")
    other = page.context.new_page()
    other.goto(gateway.url + "/ui/")
    other.get_by_label("Key", exact=True).wait_for()
    assert [url for url in urls if keyring.secrets["boss"] in url] == []
    assert page.context.cookies() == []
    assert page.evaluate("localStorage.length") == 0
    button(page, "Key: boss").click()
    button(page, "Forget the key").click()
    page.get_by_label("Key", exact=True).wait_for()
    assert page.evaluate("sessionStorage.length") == 0


def test_the_page_shows_what_the_key_may_do(keyed, open_page):
    """Whoever observes has figures and no action; whoever produces only enqueues; an operator chooses a tenant."""
    gateway, keyring = keyed
    page = open_page(gateway.url + "/ui/#/queues/orders")
    enter(page, keyring.secrets["watcher"])
    page.get_by_text("max_attempts").wait_for()
    assert page.locator(".actions button").count() == 0
    headings = page.locator("h2").all_inner_texts()
    assert headings == ["Servers", "Open leases", "Subscriptions", "Policy"]
    producer = open_page(gateway.url + "/ui/")
    enter(producer, keyring.secrets["web"])
    producer.get_by_label("Name of the queue").fill("orders")
    button(producer, "Open").click()
    assert producer.locator(".actions button").all_inner_texts() == ["Enqueue a job"]
    operator = open_page(gateway.url + "/ui/")
    enter(operator, keyring.secrets["ops"])
    operator.get_by_label("Tenant").fill("acme")
    button(operator, "Show its queues").click()
    expect(cell(operator, "orders", "Waiting"), "2")
    operator.get_by_role("link", name="orders").click()
    operator.get_by_text("max_attempts").wait_for()
    assert operator.locator(".actions button").count() == 0
    operator.get_by_role("link", name="Servers").click()
    operator.locator(".card .mark.up").wait_for()


def figures_by_server(page):
    """The servers in the section of an open queue. Their jobs are the 40 of the queue."""
    rows = page.locator("section", has=page.get_by_role("heading", name="Servers")).locator("tbody tr")
    rows.nth(1).wait_for()
    assert sum(int(each) for each in rows.locator("td:nth-child(2)").all_inner_texts()) == 40
    return set(rows.locator("td:first-child").all_inner_texts())


def test_keys_and_two_servers_together(tmp_path, open_page):
    """A row for each server, live; addresses only for an operator, who takes one server out of service: then the
    others see it."""
    keyring = Keyring(tmp_path / "keys.toml")
    keyring.add("boss", "acme")
    keyring.add("ops", "", "operator")
    with BrokerProcess(tmp_path / "a") as one, BrokerProcess(tmp_path / "b") as two:
        flags = ("--kestrel", one.address, "--kestrel", two.address, "--keys", str(keyring.path))
        with running(tmp_path / "data", *flags) as gateway, keyring.client(gateway, "boss") as http:
            enqueue(http, "spread", 40)
            page = open_page(gateway.url + "/ui/")
            enter(page, keyring.secrets["boss"])
            expect(cell(page, "spread", "Waiting"), "40")
            page.get_by_label("Figures of each server").check()
            servers = page.locator("tr[data-server]")
            servers.nth(1).wait_for()
            assert servers.locator(".c-queue").all_inner_texts() == ["server-1", "server-2"]
            counts = [int(each) for each in servers.locator('td[data-label="Waiting"]').all_inner_texts()]
            assert sum(counts) == 40
            assert all(servers.locator('td[data-label="Oldest"]').all_inner_texts())
            assert page.locator("table").get_attribute("aria-rowcount") == "4"
            assert findings(page) == []
            page.get_by_label("Figures of each server").uncheck()
            servers.first.wait_for(state="detached")
            page.get_by_role("link", name="spread").click()
            assert figures_by_server(page) == {"server-1", "server-2"}
            operator = open_page(gateway.url + "/ui/#/servers")
            enter(operator, keyring.secrets["ops"])
            card = operator.get_by_role("region", name=one.address)
            button(card, "readonly").click()
            button(operator, "Set to readonly").click()
            card.locator(".mark.readonly").wait_for()
            enqueue(http, "spread", 10)
            rows = page.locator("section", has=page.get_by_role("heading", name="Servers")).locator("tbody tr")
            place = sorted((one.address, two.address)).index(one.address)
            expect(rows.nth(1 - place).locator("td:nth-child(2)"), str(counts[1 - place] + 10))
            expect(rows.nth(place).locator("td:nth-child(2)"), str(counts[place]))
            page.close()
            operator.close()


def test_two_servers(tmp_path, open_page):
    """Figures of both together and of each; one is taken out of service and put back; one that is down is shown."""
    with BrokerProcess(tmp_path / "a") as one, BrokerProcess(tmp_path / "b") as two:
        flags = ("--kestrel", one.address, "--kestrel", two.address)
        with running(tmp_path / "data", *flags) as gateway, gateway.client() as http:
            enqueue(http, "spread", 40)
            page = open_page(gateway.url + "/ui/")
            expect(cell(page, "spread", "Waiting"), "40")
            page.get_by_role("link", name="spread").click()
            assert figures_by_server(page) == {one.address, two.address}
            page.get_by_role("link", name="Servers").click()
            card = page.get_by_role("region", name=one.address)
            button(card, "readonly").click()
            assert one.address in page.get_by_role("dialog").locator("h2").inner_text()
            button(page, "Cancel").click()
            assert {each["status"] for each in http.get("/backends").json()["backends"]} == {"up"}
            button(card, "readonly").click()
            button(page, "Set to readonly").click()
            card.locator(".mark.readonly").wait_for()
            button(card, "up").click()
            button(page, "Set to up").click()
            card.locator(".mark.up").wait_for()
            two.close()
            page.get_by_role("region", name=two.address).locator(".mark.down").wait_for()
            page.get_by_role("link", name="Queues").first.click()
            page.locator(".totals .warn dd", has_text="1/2").wait_for()
            expect(row(page, "spread").locator(".mark.part"), "1/2 servers")
            page.get_by_role("link", name="spread").click()
            expect(page.locator(".title .mark.part"), "1/2 servers")
            page.close()
