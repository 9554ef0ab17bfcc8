"""One WebUI's work with the allocator: the actions of its users, its generations, and the state that its pages show.

Nothing here knows a WebUI. A host says how to find its model (`Host`), tells when generations begin, step and end, and
holds its own queue while it calls an action: actions belong between two pieces of work.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import _automatic, _install, _library, _placement, _report, _tensors, _variable
from .gate import Gate
from .guide import Guide, Observation, chosen, guide, observe

if TYPE_CHECKING:
    from collections.abc import Callable

ACTIONS = ("disable", "free VRAM", "activate")

TOO_LATE = (
    "giant-kitten came too late, CUDA had started with PyTorch's own allocator: set the environment variable "
    "GIANT_KITTEN=1, or run “python -m giant_kitten webui install FOLDER” with the WebUI's folder, and start it again."
)
UNUSED = "Nothing has used the GPU yet."
NO_MODEL = "No model was found to be placed first. To go on without one, check “ignored model”."


# So many seconds a generation waits at its beginning for previews of the last one.
_PATIENCE = 2.0


class Refused(Exception):
    """What a user asked for cannot be done: the text says why, and what to do."""


@dataclass(frozen=True)
class Action:
    """An action with its options. Sizes are bytes."""

    name: str
    reserve: int | None = None
    """None: found automatically."""
    persist: int = 0
    no_abort: bool = False
    sort_reversed: bool = False
    ignored_model: bool = False


def parse_action(
    action: Any,
    reserve: Any = 0,
    persist: Any = 0,
    no_abort: Any = False,
    sort_reversed: Any = False,
    ignored_model: Any = False,
    *,
    most: int | None = None,
) -> Action:
    """The action of a form or an API call: `action` by number or name, `reserve` and `persist` in GiB.

    Whatever else the values are, the answer is a sentence (`Refused`). `most` is the card's size in bytes: no more can
    be reserved.
    """
    return Action(
        name=_name(action),
        reserve=_gib("reserve", reserve, most),
        persist=_gib("persist", persist, most),
        no_abort=_flag("no abort", no_abort),
        sort_reversed=_flag("sort reversed", sort_reversed),
        ignored_model=_flag("ignored model", ignored_model),
    )


def _name(value: Any) -> str:
    if isinstance(value, str):
        plain = value.removeprefix("GK:").strip().lower()
        for name in ACTIONS:
            if plain == name.lower():
                return name
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and value in range(len(ACTIONS)):
        return ACTIONS[int(value)]
    raise Refused(f"There is no action {shown(value)}: choose one of {', '.join(ACTIONS)} (or 0, 1, 2).")


def _gib(name: str, value: Any, most: int | None) -> int:
    if value is None or value == "":
        return 0
    try:
        # Of texts what people write, and not all that Python reads: "1_000", other scripts' digits.
        if isinstance(value, str) and not re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*", value, re.ASCII):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError):
        raise Refused(f"“{name}” is a number of GiB, as in 1.6, not {shown(value)}.") from None
    except OverflowError:
        number = float("inf")
    if isinstance(value, bool) or not 0 <= number < 1 << 20:
        raise Refused(f"“{name}” is a number of GiB from 0 to the card's size, not {shown(value)}.")
    bytes_ = int(number * (1 << 30))
    if most is not None and bytes_ > most:
        raise Refused(f"“{name}” is {number:g} GiB, but the card has {most / (1 << 30):.1f} GiB for giant-kitten.")
    return bytes_


def _flag(name: str, value: Any) -> bool:
    if value in (None, ""):
        return False
    if value in (True, False):
        return bool(value)
    raise Refused(f"“{name}” is yes or no (true or false), not {shown(value)}.")


def shown(value: Any) -> str:
    """A value as a sentence shows it: in printable letters, and not at any length."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        # Numbers of thousands of digits, lists within lists.
        return f"such a {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:100]}…"


@dataclass
class Host:
    """What a session has to know of its WebUI."""

    name: str
    model: Callable[[], Any] = lambda: None
    """The module that is placed first: the UNet or transformer of the checkpoint in use. None where there is none."""
    bring: Callable[[Any], None] = lambda model: None
    """Brings the model to the GPU where it is parked on the CPU."""
    decoder: Callable[[], Any] = lambda: None
    """The module that makes pictures of what the model made. None where it is not known."""
    companions: Callable[[], list[Any]] = list
    """What works beside the model in each step of the generation that runs: its ControlNets. Only modules count."""


@dataclass
class Work:
    """A generation, as it runs or as it was."""

    kind: str
    began: float
    iterations: int = 0
    told: int = 0
    """The iterations that were done when the first was told of."""
    first: float = 0.0
    last: float = 0.0
    running: bool = True

    def seconds_per_iteration(self) -> float | None:
        """Between the first that was told of and the last; None before there are two."""
        counted = self.iterations - self.told
        return (self.last - self.first) / counted if counted > 0 else None


class Session:
    """The allocator in one WebUI, on one device."""

    def __init__(self, host: Host, device: int = 0) -> None:
        self.host = host
        self.device = device
        self.gate = Gate(device)
        """Where the host's work beside a generation passes."""
        self.by_hand: Action | None = None
        """The placement that was asked for by hand and is in force; a new checkpoint is placed by it again."""
        self._work: Work | None = None
        self._before: dict[str, Any] | None = None
        self._observation: Observation | None = None
        self._following: list[_automatic.Following] = []
        self._placed: list[Any] = []
        """The weights that were placed or marked last."""
        self._companions: list[Any] = []
        """The first weights of what worked beside the model last."""
        self._trouble: str | None = None
        """What went wrong without anybody to tell: the page tells it."""
        self._lock = threading.Lock()

    # ---- Actions ----------------------------------------------------------------------------------------------------

    def problem(self) -> str | None:
        """Why the allocator is not in use here, in one sentence with the remedy; None if it is."""
        if _install.is_installed():
            return None
        return _not_installed()

    def capacity(self) -> int | None:
        """The dedicated memory there is to reserve from, in bytes; None where the allocator is not in use."""
        if not _install.is_installed():
            return None
        try:
            found = _report.stats(self.device)
            if not found["in_use"]:
                # What it would have: its statistics tell nothing yet.
                found = _library.read_json("gk_device_json", self.device)
            return int(found["dedicated_capacity"])
        except _library.Error:
            return None

    def idle_dedicated(self) -> int:
        """The dedicated memory that no block has, in bytes."""
        stats = _report.stats(self.device)
        return int(stats["dedicated_capacity"] - stats["persist"] - stats["dedicated_active"])

    def act(self, wanted: Action) -> str:
        """Does an action, and says in a sentence what came of it. Raises `Refused` where it cannot be."""
        problem = self.problem()
        if problem:
            raise Refused(problem)
        try:
            # An action moves what previews work with: it waits for them, and they for it.
            with self.gate.quiet():
                said = self._act(wanted)
        except _library.Error as why:
            raise Refused(f"{wanted.name}: {why}.") from why
        self._trouble = None
        with self._lock:
            # What an action moves within a generation is not what the generation asked for.
            self._before = None
        return said

    def _act(self, wanted: Action) -> str:
        if wanted.name == "free VRAM":
            _placement.free_vram(self.device)
            self.by_hand = wanted
            found = _report.stats(self.device)
            return (
                f"VRAM is free: {_report.size(found['shared_allocated'])} lie in shared memory, and everything still "
                "works, only slower. “disable” or “activate” brings it back."
            )
        model = None
        if not wanted.ignored_model:
            model = self.host.model()
            if model is None:
                raise Refused(NO_MODEL)
            if not _is_on_gpu(model):
                self.host.bring(model)
            _placement.mark(model)
            self._placed = _weights(model)
        if wanted.name == "disable":
            _placement.disable(wanted.sort_reversed, wanted.ignored_model, self.device)
            self.by_hand = wanted
            return "Disabled: everything is placed anew with all of the card, and nothing is kept back."
        _placement.activate(
            reserve="auto" if wanted.reserve is None else wanted.reserve,
            sort_reversed=wanted.sort_reversed,
            ignore_model=wanted.ignored_model,
            persist=wanted.persist,
            device=self.device,
        )
        self.by_hand = None if wanted.reserve is None else wanted
        found = _report.stats(self.device)
        kept = "found automatically" if wanted.reserve is None else _report.size(found["reserve"])
        return (
            f"Activated: the reserve is {kept}; {_report.size(found['dedicated_allocated'])} are dedicated and "
            f"{_report.size(found['shared_allocated'])} shared."
        )

    def automatic(self) -> str:
        """Gives the reserve back to the automatic mode."""
        return self.act(Action("activate", reserve=None, ignored_model=self.host.model() is None))

    def restore(self) -> None:
        """Undoes everything that was done by hand, as when the script is unloaded. Never raises."""
        self._follow()
        if self.by_hand is None or not _install.is_installed():
            return
        try:
            self.automatic()
        except (Refused, _library.Error):
            self.by_hand = None

    def _place_again(self, thorough: bool = True) -> None:
        """Places a model that has come since the last action as the one before it; in automatic mode, marks it.

        Looks at all of its weights (a millisecond or two), or at the first alone.
        """
        model = self.host.model()
        weights = [] if model is None else _weights(model, None if thorough else 1)
        if not weights or weights == (self._placed if thorough else self._placed[:1]):
            return
        try:
            # What is yet to come to the GPU is placed when it is there.
            if self.by_hand is not None and self.by_hand.name == "activate" and _is_on_gpu(model):
                self.act(self.by_hand)
            else:
                _placement.mark(model)
        except (Refused, _library.Error) as why:
            self.tell(f"The new checkpoint could not be placed as the one before. {why}")
        self._placed = _weights(model)

    def _mark_companions(self) -> None:
        """Marks what works beside the model as belonging to it: nothing moves now, and the next action places it so."""
        import torch

        companions = [module for module in self.host.companions() if isinstance(module, torch.nn.Module)]
        weights = [_weights(module, 1) for module in companions]
        if weights == self._companions:
            return
        self._companions = weights
        with contextlib.suppress(_library.Error):
            _placement.mark(companions)

    # ---- Generations ------------------------------------------------------------------------------------------------

    def begin(self, kind: str) -> str:
        """A generation begins, and nobody has launched any work of it yet.

        `kind` is a name for work that needs the same memory: the size of its pictures, say.
        Returns a few words on the placement for the picture's description, "" where there is none.
        """
        if not _install.is_installed():
            return ""
        self._place_again()
        try:
            self._follow(kind)
            # What does not come to rest in time is seen by the library, which then moves nothing.
            with self.gate.quiet(_PATIENCE):
                _automatic.safe_point(kind, self.device)
            _library.call("gk_reset_peaks", self.device)
            found = _report.stats(self.device)
            before = found if found["in_use"] else None
        except _library.Error:
            before = None
        with self._lock:
            self._work = Work(kind, time.monotonic())
            self._before = before
        if before is None:
            return ""
        mode = "automatic" if before["automatic"] else before["phase_name"]
        shared = _report.size(before["shared_allocated"])
        return f"{mode}; reserve {_report.size(before['reserve'])}; {shared} in shared memory"

    def _follow(self, kind: str = "") -> None:
        """Tells the automatic mode of each pass of model and decoder, in generations of that kind; or no more."""
        for following in self._following:
            following.remove()
        parts = {"model": self.host.model(), "decoder": self.host.decoder()} if kind else {}
        known = {name: module for name, module in parts.items() if module is not None}
        self._following = [_automatic.follow(module, f"{name} {kind}", self.device) for name, module in known.items()]

    def tell(self, trouble: str) -> None:
        """Has the page tell what went wrong where nobody else could, until the next action."""
        self._trouble = trouble

    def iteration(self, done: int | None = None) -> None:
        """One step of sampling is done; or `done` of them, where the WebUI counts them and does not tell of each.

        Fewer than before, or as many, are of a sampling that has begun anew.
        """
        if _install.is_installed():
            # Some WebUIs load the model within the generation, or another for its later steps.
            self._place_again(thorough=self._work is not None and self._work.iterations == 0)
            self._mark_companions()
        with self._lock:
            work = self._work
            if work is None or not work.running:
                return
            now, before = time.monotonic(), work.iterations
            work.iterations = before + 1 if done is None else done
            work.last = now
            if before == 0 or work.iterations <= before:
                work.first, work.told = now, work.iterations

    def end(self) -> None:
        """The generation is over, finished or not."""
        with self._lock:
            work, before = self._work, self._before
            self._before = None
            if work is not None:
                work.running = False
        self._follow()
        if before is None or not _install.is_installed():
            return
        try:
            after = _report.stats(self.device)
        except _library.Error:
            return
        with self._lock:
            self._observation = observe(before, after)

    # ---- State ------------------------------------------------------------------------------------------------------

    def guide(self) -> Guide | None:
        """The guidance from the last generation; None before the first, and where the allocator is not in use."""
        if not _install.is_installed():
            return None
        try:
            return guide(_report.stats(self.device), self._observation)
        except _library.Error:
            return None

    def state(self) -> dict[str, Any]:
        """The state as map.js shows it."""
        with self._lock:
            work, observation = self._work, self._observation
            done = None
            if work is not None:
                done = {
                    "kind": work.kind,
                    "running": work.running,
                    "iterations": work.iterations,
                    "seconds_per_iteration": work.seconds_per_iteration(),
                }
        found = state((self.device,), observation)
        found["work"] = done
        found["problem"] = found["problem"] or self._trouble
        found["by_hand"] = self.by_hand is not None
        return found


def state(devices: Any = None, observation: Observation | None = None) -> dict[str, Any]:
    """The state of this process as map.js shows it; of all devices where none are named."""
    if not _install.is_installed():
        return {"problem": _not_installed(), "devices": []}
    if devices is None:
        import torch

        if not torch.cuda.is_initialized():
            # To count the devices would begin it, and no child could be forked then.
            return {"problem": None, "note": UNUSED, "devices": []}
        devices = range(torch.cuda.device_count())
    shown: list[dict[str, Any]] = []
    problem = None
    for device in devices:
        try:
            found = _report.stats(device)
            if not found["in_use"]:
                continue
            mode = "automatic" if found["automatic"] else "by hand"
            advice = guide(found, observation)
            shown.append(
                {
                    "index": device,
                    "phase": f"{found['phase_name']}, {mode}",
                    "stats": found,
                    "map": _report.memory_map(device),
                    "chosen": chosen(found),
                    "guide": vars(advice) if advice else None,
                }
            )
        except _library.Error as why:
            problem = str(why)
    return {"problem": problem, "note": None if shown or problem else UNUSED, "devices": shown}


def _is_on_gpu(model: Any) -> bool:
    return all(weight.device.type == "cuda" for weight in _tensors.tensors(model))


def _weights(model: Any, most: int | None = None) -> list[Any]:
    """A model's weights on the GPU: others after another was loaded into it, or after it was away.

    Weak references, so that no address is taken for what lay there before.
    """
    from torch.multiprocessing.reductions import StorageWeakRef

    found = (_tensors.storage_of(weight) for weight in _tensors.on_gpu(model))
    return [StorageWeakRef(storage) for storage in itertools.islice(found, most)]


_FIELDS = ("action", "reserve", "persist", "sort_reversed", "ignored_model")


def act_of(session: Session, body: Any, in_turn: Callable[[Callable[[], str]], str]) -> tuple[int, dict[str, Any]]:
    """An action that was asked for over HTTP with a JSON body: the status, and what to answer.

    `in_turn` does something between two generations.
    """
    if not isinstance(body, dict) or "action" not in body:
        return 422, {"detail": 'A JSON object is wanted, as in {"action": "activate", "reserve": 1.6}.'}
    unknown = sorted(set(body) - set(_FIELDS))
    if unknown:
        return 422, {"detail": f"There is no field {shown(unknown[0])}: there are {', '.join(_FIELDS)}."}
    refused: list[str] = []

    def work() -> str:
        try:
            if body["action"] == "automatic":
                # What is given besides has no effect there, and has to make sense all the same.
                parse_action(**{**body, "action": "activate"})
                return session.automatic()
            return session.act(parse_action(**body, most=session.capacity()))
        except Refused as why:
            refused.append(str(why))
            return ""

    said = in_turn(work)
    if refused:
        return 422, {"detail": refused[0]}
    return 200, {"detail": said, "state": session.state()}


def _not_installed() -> str:
    import os
    import sys

    if _variable.NAME in os.environ and not _variable.wanted():
        return "giant-kitten is switched off by the environment variable GIANT_KITTEN."
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return TOO_LATE
    if torch is not None and not torch.cuda.is_available():
        return "PyTorch finds no GPU here, so there is nothing to allocate: “python -m giant_kitten doctor” says more."
    return (
        _install.failure()
        or _variable.too_late()
        or "giant-kitten is not in use: set the environment variable GIANT_KITTEN=1 and start again."
    )
