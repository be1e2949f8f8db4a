"""Mutated protocols: each one loads or causes one of our own errors.

They are mutations of the shipped protocols, and are read as by the command: `load`, then `draw`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ignite_trainer.protocol.blueprint import draw
from ignite_trainer.protocol.loading import load
from ignite_trainer.protocol.overrides import split_overrides
from ignite_trainer.protocol.reading import read_protocol
from ignite_trainer.support.errors import ProtocolError

Places = list[tuple[Any, Any]]
if TYPE_CHECKING:
    from tests.fuzz.conftest import TryCases

FOLDER = Path(__file__).parents[2] / "protocols"
DEFAULTS = FOLDER / "defaults.json"
PATHS = sorted(set(FOLDER.glob("*.json")) - {DEFAULTS, FOLDER / "schema.json"})
SHIPPED = [json.dumps(read_protocol(path)) for path in PATHS]

CLASSES = """
    canary.Model canary torch.canary.Model os.system builtins.eval builtins.exec subprocess.Popen posix.system
    torch.os.system torch.sys.exit torch.load torch.save torch.hub.load torch.hub.download_url_to_file
    torch.jit.load torch.package.PackageImporter torch.utils.cpp_extension.load torch.utils.collect_env.main
    torch.multiprocessing.spawn torch.distributed.run.main torch.distributed.launch.main torch.fx.GraphModule
    torch.ops.load_library torch.classes.load_library torch.classes.a.b torch.ops.aten.relu torch.compile
    torch.nn.Module.__init__.__globals__ torch.__builtins__.eval torch.nn.Module.__subclasses__ torch._C._jit
    torch.testing._internal.common_utils.TestCase torch.nn.Module.__class__ torch.serialization.pickle.loads
    torch.nn.Linear torch.nn.Identity torch.nn.functional.relu torch.utils.data.DataLoader torch.Tensor
    torch.utils.data.Dataset torch.utils.data.TensorDataset torch.optim.Adam torch.optim.Optimizer
    torch.optim.lr_scheduler.LambdaLR torch.optim.lr_scheduler.ReduceLROnPlateau torch.float32 torch.nn torch
    torchvision.datasets.MNIST torchvision.models.resnet18 torchvision.transforms.Lambda torchaudio.load
    ignite.handlers.DiskSaver ignite.handlers.Checkpoint ignite.distributed.Parallel ignite.utils.setup_logger
    ignite.metrics.Loss ignite.metrics.EpochMetric ignite.engine.Engine numpy.ndarray numpy.fromfile
    ignite_trainer.commands.cli.main ignite_trainer.runs.experiment.run ignite_trainer.api.task.Task
    ignite_trainer.commands.cli.glob ignite_trainer.reporters.Console
    utils.fetch.main utils.fetching.unpack.unpack model.weights.fetch.fetch main.main
    a. .a a..b torch..nn torch/nn torch.nn.Linear() torch.nn\u2024Linear \u0442orch.nn.Linear
""".split()  # noqa: SIM905 - a list of so many words fills a page
TEXTS = [
    *("", " ", "\x1b[31m", "line\nbreak", "\u202e", "\U0001f600", "../../etc/passwd", "{}", "{0.__class__}"),
    *("<script>alert(1)</script>", "%s%n", "${x}", "NaN", "true", "x" * 10_000, "(" * 400, "[[a]--b]"),
    *("(?P<a>", "\\"),
]
NUMBERS: list[Any] = [0, -1, 1, 2**31, 2**63, 10**30, 10**12, -(10**12), 0.5, -0.0, 1e300, True, False, None]
KEYS = ["", *"class args Setup Sweep train $schema extends a.b [0] __class__ self".split()]  # noqa: SIM905
TOKENS = ["1" * 5000, *"NaN -Infinity 1e999 0x10 01 'a' // ,".split()]  # noqa: SIM905


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container with each of its keys."""
    for key in (
        list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    ):
        yield value, key
        yield from places(value[key])


def anything(rng: random.Random) -> Any:
    """Return a value of any type, wrong in most places."""
    kinds: list[Callable[[], Any]] = [
        lambda: rng.choice(TEXTS),
        lambda: rng.choice(NUMBERS),
        lambda: rng.choice(CLASSES),
        lambda: [anything(rng) for _ in range(rng.randrange(3))],
        lambda: {rng.choice(KEYS): anything(rng) for _ in range(rng.randrange(3))},
        lambda: {"class": rng.choice(CLASSES), "args": {}},
        lambda: [[[[[]]]]],
    ]
    return rng.choice(kinds)()


def change(raw: dict[str, Any], rng: random.Random) -> None:
    """Change one thing of a protocol."""
    found: Places = list(places(raw))
    kind = rng.randrange(7)
    if kind <= 1:  # most important: what is imported
        found = [(parent, key) for parent, key in found if key == "class"] or found
        parent, key = rng.choice(found)
        parent[key] = rng.choice(CLASSES)
        return
    parent, key = rng.choice(found)
    if kind == 2:
        del parent[key]
    elif kind == 3:
        parent[key] = anything(rng)
    elif kind == 4 and isinstance(parent, dict):
        parent[rng.choice([*KEYS, str(key) + "s", str(key).lower()])] = parent.pop(key)
    elif kind == 5:
        other, there = rng.choice(found)
        parent[key] = json.loads(json.dumps(other[there]))
    else:
        parent[key] = rng.choice(([parent[key]], {"a": parent[key]}, str(parent[key])))


def spoil(content: bytes, rng: random.Random) -> bytes:
    """Change the text of a protocol."""
    at, token = rng.randrange(len(content) + 1), rng.choice(TOKENS).encode()
    kinds: list[Callable[[], bytes]] = [
        lambda: content[:at],
        lambda: content[:at] + token + content[at:],
        lambda: content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :],
        lambda: rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"[", b"")) + content,
        lambda: content.decode().encode(rng.choice(("utf-16", "utf-32", "utf-8-sig"))),
        lambda: content.replace(b'"args"', b'"class"', 1),  # a repeated key
        lambda: content.replace(b": ", b": " + token + b", ", 1),
    ]
    return rng.choice(kinds)()


def overrides(raw: Any, rng: random.Random) -> list[str]:
    words = []
    for _ in range(rng.randrange(3)):
        path, value = [rng.choice(["Setup", "Model", "Dataset", "Sweep", "Nothing"])], raw
        while rng.randrange(5) and isinstance(value, dict | list) and value:
            key = rng.choice(list(value) if isinstance(value, dict) else list(range(len(value))))
            value = value[key]
            path = [*path, str(key)] if path[0] in ("Sweep", "Nothing") or len(path) > 1 else [str(key)]
        path += [rng.choice([*KEYS, "999999", "-1", "args"])] if not rng.randrange(3) else []
        given = rng.choice([*TEXTS, *CLASSES, *TOKENS, "1", "null", "[]", "{}", '{"a": 1}'])
        words += ["--" + ".".join(path), given]
    return words


def mutated(rng: random.Random) -> tuple[bytes, list[str]]:
    raw = json.loads(rng.choice(SHIPPED))
    for _ in range(rng.randrange(4)):
        if raw:
            change(raw, rng)
    content = json.dumps(raw).encode()
    if not rng.randrange(3):
        content = spoil(content, rng)
    return content, overrides(raw, rng)


def check(path: Path, rng: random.Random) -> bool:
    """Read a mutated protocol as the command does; return whether it is valid."""
    content, words = mutated(rng)
    path.write_bytes(content)
    try:
        _, found = split_overrides(words)
        draw(load(path, found, defaults=DEFAULTS), source=str(path))
    except ProtocolError as error:
        assert error.problems
        assert str(path) in str(error)
        assert all(problem.strip() and len(problem) < 20_000 for problem in error.problems)
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for path in PATHS:
        draw(load(path, defaults=DEFAULTS))  # imports what takes memory
    return tmp_path_factory.mktemp("protocols")


@pytest.mark.parametrize("cases", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_mutated_protocol_loads_or_is_refused(try_cases: TryCases, folder: Path, cases: int) -> None:
    try_cases(cases, lambda rng: check(folder / "mutated.json", rng))
