"""The places that options of a unit hide, as ``systemctl show`` names them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sage_inference.daemon.service.hidden import hider_of

PRIVATE_TMP = {"PrivateTmp": "yes"}


@pytest.mark.parametrize(
    ("file", "options", "found"),
    [
        ("/tmp/venv/bin/sage", PRIVATE_TMP, ("PrivateTmp", "/tmp")),
        ("/var/tmp/a.pem", PRIVATE_TMP, ("PrivateTmp", "/var/tmp")),
        ("/tmp/a", {"PrivateTmp": "disconnected"}, ("PrivateTmp", "/tmp")),
        ("/tmp/a", {"PrivateTmp": "no"}, None),
        ("/tmpfiles/a", PRIVATE_TMP, None),
        ("/home/me/a", PRIVATE_TMP, None),
        ("/home/me/a", {"ProtectHome": "yes"}, ("ProtectHome", "/home")),
        ("/root/a", {"ProtectHome": "tmpfs"}, ("ProtectHome", "/root")),
        ("/home/me/a", {"ProtectHome": "read-only"}, None),
        ("/srv/a/b", {"InaccessiblePaths": "/opt -/srv/a"}, ("InaccessiblePaths", "/srv/a")),
        ("/srv/a/b", {"TemporaryFileSystem": "/srv:ro"}, ("TemporaryFileSystem", "/srv")),
        ("/tmp/a/b", {**PRIVATE_TMP, "BindReadOnlyPaths": "/tmp/a:/tmp/a:rbind"}, None),
        ("/tmp/b", {**PRIVATE_TMP, "BindPaths": "/tmp/a:/tmp/a:rbind"}, ("PrivateTmp", "/tmp")),
        ("/tmp/a", {**PRIVATE_TMP, "BindPaths": "/:/:rbind"}, ("PrivateTmp", "/tmp")),
        ("/tmp/a", {}, None),
    ],
)
def test_a_file_is_seen_unless_an_option_hides_its_folder(
    file: str, options: dict[str, str], found: tuple[str, str] | None
) -> None:
    assert hider_of(Path(file), options) == found


def test_the_target_of_a_link_must_be_seen(tmp_path: Path) -> None:
    """The test's own folder stands for /tmp."""
    (tmp_path / "hidden").mkdir()
    link = tmp_path / "sage"
    link.symlink_to(tmp_path / "hidden" / "sage")
    options = {"InaccessiblePaths": str(tmp_path / "hidden")}
    assert hider_of(link, options) == ("InaccessiblePaths", str(tmp_path / "hidden"))
