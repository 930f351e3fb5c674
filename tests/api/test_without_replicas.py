"""A gateway that has no replicas."""

from __future__ import annotations

import httpx

from gateway.forwarding.replicas import PATH


def test_it_has_no_path_for_replicas(http: httpx.Client) -> None:
    """404, as for any path that there is not."""
    assert http.post(PATH, content=b"{}").status_code == 404
