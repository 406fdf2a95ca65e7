"""Models by their name on the hub: from a cache in its own layout, from a hub on this machine, or refused."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save

from linft import load_model
from linft.core.errors import LinftError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 5,
    "pretrained_cfg": {
        "tag": "a1_in1k",
        "input_size": [3, 64, 64],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "license": "apache-2.0",
    },
}


def reach(monkeypatch, address):
    """Let huggingface_hub look for the hub at an address."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    path = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + path)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of huggingface_hub, and nobody at the hub's address."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    reach(monkeypatch, "http://127.0.0.1:9")  # nobody listens at that port
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    return tmp_path / "hub"


@pytest.fixture
def files(torch_resnet18):
    return {"model.safetensors": save(torch_resnet18), "config.json": json.dumps(CONFIG).encode()}


def put(cache, files, refs=("main",)):
    """A repository in the cache, as huggingface_hub lays it out."""
    repo = cache / "models--timm--resnet18.a1_in1k"
    (repo / "snapshots" / COMMIT).mkdir(parents=True)
    (repo / "refs").mkdir()
    for ref in refs:
        (repo / "refs" / ref).write_text(COMMIT)
    for name, content in files.items():
        (repo / "snapshots" / COMMIT / name).write_bytes(content)


@pytest.mark.parametrize("revision", ["", "@main", "@v2", f"@{COMMIT}"])
def test_what_the_cache_has_needs_no_hub(cache, files, torch_resnet18, revision):
    put(cache, files, refs=("main", "v2"))
    model = load_model(f"hf:timm/resnet18.a1_in1k{revision}")
    assert (model.name, model.num_classes) == ("resnet18.a1_in1k", 5)
    assert model.source["from"] == "hf:timm/resnet18.a1_in1k"
    assert model.source["revision"] == COMMIT
    assert (model.source["data"], model.source["licence"]) == ("imagenet-1k", "apache-2.0")
    assert model.preprocessing.input_size == (64, 64, 3)
    np.testing.assert_array_equal(model.params["head"]["kernel"], torch_resnet18["fc.weight"].T)


def test_offline_and_not_in_the_cache(cache, files, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    put(cache, {"model.safetensors": files["model.safetensors"]})
    message = (
        r"hf:timm/.* at revision main is not in the cache .*HF_HUB_OFFLINE is set.*`hf download timm/resnet18.a1_in1k"
    )
    with pytest.raises(LinftError, match=message):
        load_model("hf:timm/resnet18.a1_in1k")  # the weights alone, and no word on whether there is a config


def test_no_network_is_one_line(cache):
    with pytest.raises(LinftError, match=r"is not in the cache .* cannot be downloaded .*; run `hf download") as error:
        load_model("hf:timm/resnet18.a1_in1k")
    assert "\n" not in str(error.value)


def test_a_name_that_no_repository_can_have():
    with pytest.raises(LinftError, match=r"hf:timm/../secret names no repository; give hf:OWNER/NAME\[@REVISION\]"):
        load_model("hf:timm/../secret")


@pytest.fixture
def hub(files, monkeypatch):
    """A hub on this machine with one good repository and some that are refused."""
    repositories = {
        "timm/resnet18.a1_in1k": files,
        "timm/bare": {"model.safetensors": files["model.safetensors"]},
        "timm/pickled": {"pytorch_model.bin": b"", "config.json": b"{}"},
    }
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            parts = self.path.split("?")[0].strip("/").split("/")
            if parts[0] == "api":  # /api/models/OWNER/NAME/revision/REVISION
                repo, revision, file = "/".join(parts[2:4]), parts[5], None
            else:  # /OWNER/NAME/resolve/REVISION/FILE
                repo, revision, file = "/".join(parts[:2]), parts[3], parts[4]
            if repo == "timm/gated" and file:
                return self.answer(403, {"X-Error-Code": "GatedRepo"})
            if repo not in repositories and repo != "timm/gated":
                return self.answer(404, {"X-Error-Code": "RepoNotFound"})
            if revision not in ("main", COMMIT):
                return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
            if file is None:
                return self.answer(200, {}, json.dumps({"id": repo, "sha": COMMIT, "siblings": []}).encode())
            if file not in repositories[repo]:
                return self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            content = repositories[repo][file]
            return self.answer(200, {"ETag": f'"{hash(content)}"', "X-Repo-Commit": COMMIT}, content)

        do_HEAD = do_GET

        def answer(self, status, headers, content=b""):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    reach(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_is_missing_is_downloaded_once(hub):
    first = load_model("hf:timm/resnet18.a1_in1k")
    assert first.source["revision"] == COMMIT
    assert first.preprocessing.crop == 0.95
    requests = len(hub)
    assert requests > 0
    second = load_model("hf:timm/resnet18.a1_in1k")
    assert len(hub) == requests
    jax.tree.map(np.testing.assert_array_equal, first.params, second.params)


def test_that_there_is_no_config_is_remembered(hub):
    assert load_model("hf:timm/bare").preprocessing.crop == 0.875  # the architecture's own
    requests = len(hub)
    load_model("hf:timm/bare")
    assert len(hub) == requests


REFUSED = {
    "hf:timm/nowhere": "no repository timm/nowhere on the hub, or a private one; check the name",
    "hf:timm/resnet18.a1_in1k@v9": "hf:timm/resnet18.a1_in1k has no revision v9; choose another",
    "hf:timm/pickled": r"hf:timm/pickled has no model.safetensors; choose a repository that has",
    "hf:timm/gated": r"hf:timm/gated is gated; accept its terms on its page and log in",
}


@pytest.mark.parametrize("name", REFUSED)
def test_the_hub_refuses(hub, name):
    with pytest.raises(LinftError, match=REFUSED[name]) as error:
        load_model(name)
    assert "\n" not in str(error.value)
