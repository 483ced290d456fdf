"""Downloads from a server of our own: https only, bounded, checked, complete or absent."""

import hashlib
import http.server
import threading
import urllib.request

import pytest

from data_generation.images import downloads
from data_generation.images.downloads import download

CONTENT = bytes(range(256)) * 5000
CHECKSUM = hashlib.md5(CONTENT).hexdigest()
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.BaseHTTPRequestHandler):
    sent = 0

    def do_GET(self):
        if self.path == "/redirect":
            self.send_response(302)
            self.send_header("Location", f"http://{self.headers['Host']}/file")
            self.end_headers()
            return
        self.send_response(200)
        if self.path != "/endless":
            longer = 1000 if self.path == "/cut" else 0
            self.send_header("Content-Length", str(len(CONTENT) + longer))
        self.end_headers()
        try:
            for _ in range(1 if self.path != "/endless" else 10_000):
                self.wfile.write(CONTENT)
                Server.sent += len(CONTENT)
        except OSError:
            pass  # whoever asked has had enough

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    """Its address. It speaks plain http, which the opener is told to take for https."""
    Server.sent = 0
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    opener = urllib.request.build_opener(downloads._EncryptedOnly)
    monkeypatch.setattr(
        downloads, "open_url", lambda url: opener.open(url.replace("https:", "http:"), timeout=20)
    )
    yield f"https://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.mark.parametrize("checksum", [CHECKSUM, SHA256])
def test_a_file_arrives(checksum, server, tmp_path):
    download(f"{server}/file", tmp_path / "new" / "file", checksum)
    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("path", "options", "reason"),
    [
        ("file", {"expected": "0" * 32}, f"another file: MD5 {CHECKSUM}"),
        ("file", {"expected": "0" * 64}, f"another file: SHA-256 {SHA256}, expected 0+$"),
        ("file", {"most_bytes": len(CONTENT) - 1}, "it has more than 1279999 bytes"),
        ("endless", {"most_bytes": 3 << 20}, "it has more than 3145728 bytes"),
        ("cut", {}, "it broke off after 1280000 of 1281000 bytes"),
        ("redirect", {}, "only https addresses are fetched"),
    ],
)
def test_anything_else_leaves_nothing(server, tmp_path, path, options, reason):
    (tmp_path / "file").write_text("what was there")
    with pytest.raises(ValueError, match=reason) as error:
        download(f"{server}/{path}", tmp_path / "file", **{"expected": CHECKSUM, **options})
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "what was there"
    assert Server.sent < 64 << 20  # an endless file is broken off


@pytest.mark.parametrize(
    "url",
    ["http://example.org/x", "file:///etc/passwd", "ftp://x/y", "HTTP://x", "/etc/passwd", ""],
)
def test_only_https(tmp_path, url):
    with pytest.raises(ValueError, match="only https addresses are fetched"):
        download(url, tmp_path / "x", "")
    assert not list(tmp_path.iterdir())


def test_the_addresses_of_the_project_are_https():
    from data_generation.images import cifar10, idx

    assert cifar10.ARCHIVE_URL.startswith("https://")
    assert idx.URL.startswith("https://")
