"""``kdcmae demo``: a page on loopback until Ctrl-C, on another port where one is taken."""

from __future__ import annotations

import http.client
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdcmae.bench.demo import in_browser
from kdcmae.cli import main
from kdcmae.export import serving


@pytest.fixture
def demo(raw_engine, fetched, tmp_path):
    """Starts the command, and returns its process and the address that it printed."""
    started = []

    def start(*options: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "kdcmae", "demo", raw_engine, "--output", tmp_path / "demo"]
        process = subprocess.Popen(
            [*command, "--onnxruntime-web", fetched, "--no-open", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_it_serves_on_another_port_where_one_is_taken_and_ends_with_ctrl_c(demo):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process, url = demo("--port", str(port))
    assert url.startswith("http://localhost:")
    assert not url.endswith(f":{port}/")
    with urllib.request.urlopen(f"{url}page.json") as response:
        assert response.status == 200
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors


def test_a_build_that_fails_ends_it_with_the_code_of_the_build(monkeypatch, fetched, tmp_path):
    started = []

    def run(command, **_):
        started.append(command)
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr("kdcmae.cli.demo.subprocess.run", run)
    result = CliRunner().invoke(main, ["demo", "--output", str(tmp_path), "--onnxruntime-web", str(fetched)])
    assert result.exit_code == 3
    ((_, _, module, *options),) = started
    assert (module, options[-1]) == ("kdcmae.compile", str(tmp_path / "onnx-raw"))
    assert result.stdout == ""


def test_modules_and_webassembly_have_the_types_that_browsers_run(tmp_path):
    import threading

    for name in ("a.js", "a.mjs", "a.wasm"):
        (tmp_path / name).touch()
    with serving.served(tmp_path, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        assert server.server_address[0] == "127.0.0.1"
        types = {}
        for name in ("a.js", "a.mjs", "a.wasm"):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_port)
            connection.request("GET", f"/{name}")
            types[name] = connection.getresponse().getheader("Content-Type")
            connection.close()
        server.shutdown()
    assert types == {"a.js": "text/javascript", "a.mjs": "text/javascript", "a.wasm": "application/wasm"}


def test_make_demo_says_what_a_browser_lacks(monkeypatch, tmp_path):
    monkeypatch.setenv("KDCMAE_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "demo  (install npm first, which fetches onnxruntime-web@" in in_browser()
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/npm")
    assert Path(in_browser().split()[0]).name == "kdcmae"
    assert in_browser().endswith("demo")
