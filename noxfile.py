"""The kernel laws on the older versions of JAX that linft supports, where their Python is here: `make versions`.

Python 3.11 has the originals of the architectures too, which the networks are held against. Every
other check runs on the newest version.
"""

import subprocess

import nox

nox.options.reuse_existing_virtualenvs = True
nox.options.default_venv_backend = "venv"
nox.options.envdir = ".venvs"

VERSIONS = {  # constraints, Python, packages that have the originals (of which only torch's dependencies are needed)
    "jax-0.7.2": ("jax072", "3.13", ()),  # as on hosted TPUs
    "jax-0.10": ("py311", "3.11", ("torch", "timm", "torchvision")),
}

# Not the kernel of every architecture nor every prediction, which take minutes: what they share is under test in these.
LAWS = ("tests/ntk/test_kernel_laws.py", "tests/ntk/test_engine_choice.py", "tests/predict/test_dual.py")
IMPORT_ALL = """
import importlib, pkgutil, jax, linft
for module in pkgutil.walk_packages(linft.__path__, "linft."):
    importlib.import_module(module.name)
print("every module imports on JAX", jax.__version__)
"""


def interpreter(version: str) -> str | None:
    """The path of a Python that runs; nox itself would take a pyenv shim for one."""
    found = subprocess.run(["bash", "scripts/python.sh", version], capture_output=True, text=True)
    return found.stdout.strip() or None


def add_session(name: str, constraints: str, version: str, peers: tuple[str, ...]) -> None:
    path = interpreter(version)

    @nox.session(name=name, python=path or False)
    def kernel_laws(session: nox.Session) -> None:
        if path is None:
            session.skip(f"no Python {version} here")
        held = ("--constraint", f"constraints/{constraints}.txt")
        session.install(*held, "--editable", ".[dev]")
        session.install(*held, "--no-deps", "neural-tangents", "frozendict")  # it declares TensorFlow
        for peer in peers:
            alone = () if peer == "torch" else ("--no-deps",)
            session.install("--constraint", "constraints/peers.txt", *alone, peer)
        session.run("python", "-c", IMPORT_ALL)
        workers = ("--numprocesses", "auto", "--maxprocesses", "4", "--dist", "loadfile")
        session.run("pytest", *LAWS, *(["tests/parity"] if peers else []), "-m", "not slow", *workers)


for name, row in VERSIONS.items():
    add_session(name, *row)
