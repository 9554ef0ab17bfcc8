"""The allocator in one WebUI: the actions of its users, its generations, and its state.

Nothing here depends on a particular WebUI. A host says how to find its models (`Host`), reports
when generations begin, step and end, and holds its own queue during actions, because actions belong
between two pieces of work.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from .. import _follow, _guide, _library, _placement, _report, _state, _status
from .actions import Action, Refused
from .cost import COUNTED
from .gate import Gate
from .generations import Generations
from .weights import is_on_gpu, weights

if TYPE_CHECKING:
    from collections.abc import Callable

NO_MODEL = "No model was found to be placed first. To continue without one, check “ignored model”."

# Seconds that a generation waits at its beginning for previews of the last one.
_PATIENCE = 2.0


@dataclass
class Host:
    """The functions by which a session finds the models of its WebUI."""

    name: str
    model: Callable[[], Any] = lambda: None
    """The module to be placed first: the UNet or transformer of the current checkpoint, or None."""
    bring: Callable[[Any], None] = lambda model: None
    """Moves the model to the GPU if it is parked on the CPU."""
    decoder: Callable[[], Any] = lambda: None
    """The module that decodes pictures from the model's output. None if it is not known."""
    unload: Callable[[], str] = str
    """Unloads what the WebUI keeps on the GPU in memory that is not giant-kitten's.

    Returns a sentence about it, or "" where there is no such memory.
    """
    companions: Callable[[], list[Any]] = list
    """What runs in each step of the current generation next to the model, such as ControlNets.

    Only the modules in this list count.
    """


class Session:
    """The allocator in one WebUI, on one device."""

    def __init__(self, host: Host, device: int = 0) -> None:
        self.host = host
        self.device = device
        self.gate = Gate(device)
        """The gate through which the host's concurrent work passes."""
        self.by_hand: Action | None = None
        """The placement by hand that is in force; it also applies to a new checkpoint.

        It stays while VRAM is free, and is in force again afterwards.
        """
        self.is_freed = False
        """Whether VRAM is free for other programs."""
        self._generations = Generations()
        self._following: list[_follow.Following] = []
        self._placed: list[Any] = []
        """The weights that were last placed or marked."""
        self._companions: list[Any] = []
        """The first weight of each companion that was last marked."""
        self._trouble: str | None = None
        """An error that could not be reported to anybody; the page shows it."""

    # ---- Actions ---------------------------------------------------------------------------------

    def problem(self) -> str | None:
        """Why the allocator is not in use here, in one sentence with the remedy; None if it is."""
        return _status.problem()

    def capacity(self) -> int | None:
        """The dedicated memory to reserve from, in bytes; None if the allocator is not in use."""
        if not _status.is_installed():
            return None
        try:
            found = _report.stats(self.device)
            if not found["in_use"]:
                # Its statistics are still empty; this is what it will have.
                found = _library.read_json("gk_device_json", self.device)
            return int(found["dedicated_capacity"])
        except _library.Error:
            return None

    def idle_dedicated(self) -> int:
        """The dedicated memory that is in no block, in bytes."""
        stats = _report.stats(self.device)
        return int(stats["dedicated_capacity"] - stats["persist"] - stats["dedicated_active"])

    def act(self, wanted: Action, *, without_model: bool = False) -> str:
        """Does an action, and returns a sentence about the result. Raises `Refused`.

        `without_model`: also while no model is loaded. One that is loaded later is placed first.
        """
        self._need_allocator()
        try:
            # An action moves memory that previews use, so they must not run at the same time.
            with self.gate.quiet():
                # The host holds its queue: the threads that have generated are at rest.
                _follow.vouch(self.device)
                said = f"{wanted.note} {self._act(wanted, without_model)}".lstrip()
        except _library.Error as why:
            raise Refused(f"{wanted.name}: {why}.") from why
        self._trouble = None
        self._generations.disturb()
        return said

    def _need_allocator(self) -> None:
        """Raises `Refused` where giant-kitten is not the allocator."""
        problem = self.problem()
        if problem:
            raise Refused(problem)

    def _act(self, wanted: Action, without_model: bool) -> str:
        if wanted.name == "free VRAM":
            return self._free_vram()
        ignored = wanted.ignored_model or (without_model and self.host.model() is None)
        if not ignored:
            self._mark_model()
        if wanted.name == "disable":
            _placement.disable(wanted.sort_reversed, ignored, self.device)
            self.by_hand, self.is_freed = wanted, False
            return "Disabled: everything is placed anew with all of the card, and nothing is reserved."
        return self._activate(wanted, ignored)

    def _free_vram(self) -> str:
        theirs = self.host.unload()
        _placement.free_vram(self.device)
        self.is_freed = True
        found = _report.stats(self.device)
        return (
            f"VRAM is free: {_report.size(found['shared_allocated'])} are in shared memory, and everything still "
            f"works, only slower. {theirs}{' ' if theirs else ''}“take back” brings back what was in force before, "
            f"which is {self._in_force()}."
        )

    def _in_force(self) -> str:
        """The mode that is in force, or that is again once VRAM is taken back."""
        if self.by_hand is None:
            return "the automatic mode"
        if self.by_hand.name == "disable":
            return "no reserve"
        return f"a reserve of {_report.size(self.by_hand.reserve or 0)}"

    def _mark_model(self) -> None:
        """Marks the model, so that it is placed first. Raises `Refused` if there is none."""
        model = self.host.model()
        if model is None:
            raise Refused(NO_MODEL)
        if not is_on_gpu(model):
            self.host.bring(model)
        _placement.mark(model)
        self._placed = weights(model)

    def _activate(self, wanted: Action, ignored_model: bool) -> str:
        _placement.activate(
            reserve="auto" if wanted.reserve is None else wanted.reserve,
            sort_reversed=wanted.sort_reversed,
            ignore_model=ignored_model,
            persist=wanted.persist,
            device=self.device,
        )
        self.by_hand, self.is_freed = None if wanted.reserve is None else replace(wanted, note=""), False
        found = _report.stats(self.device)
        reserve = "determined automatically" if wanted.reserve is None else _report.size(found["reserve"])
        return (
            f"Activated: the reserve is {reserve}; {_report.size(found['dedicated_allocated'])} are dedicated and "
            f"{_report.size(found['shared_allocated'])} shared."
        )

    def automatic(self) -> str:
        """Returns control of the reserve to the automatic mode."""
        return self.act(Action("activate", reserve=None), without_model=True)

    def go_back(self, name: str) -> str:
        """Does what one of `RETURNS` names."""
        return self.automatic() if name == "automatic" else self.take_back()

    def take_back(self) -> str:
        """Ends the state in which VRAM is free: what was in force before is again.

        Raises `Refused`.
        """
        self._need_allocator()
        if not self.is_freed:
            return f"VRAM is not free: {self._in_force()} is in force."
        if self.by_hand is None:
            return self.automatic()
        return self.act(self.by_hand, without_model=True)

    def restore(self) -> None:
        """Undoes everything that was done by hand, when the script is unloaded. Never raises."""
        self._follow_passes()
        if not (self.by_hand or self.is_freed) or not _status.is_installed():
            return
        try:
            self.automatic()
        except (Refused, _library.Error):
            self.by_hand, self.is_freed = None, False

    def _place_again(self, thorough: bool = True) -> None:
        """Places a model that was loaded since the last action like the model before it.

        In the automatic mode it only marks it. It compares all weights, which takes a millisecond
        or two, or the first one alone.
        """
        model = self.host.model()
        found = [] if model is None else weights(model, None if thorough else 1)
        if not found or found == (self._placed if thorough else self._placed[:1]):
            return
        try:
            # Weights that are still on the CPU are placed when they arrive on the GPU.
            hand = None if self.is_freed else self.by_hand
            if hand is not None and hand.name == "activate" and is_on_gpu(model):
                self.act(hand)
            else:
                _placement.mark(model)
        except (Refused, _library.Error) as why:
            self.report(f"The new checkpoint could not be placed like the one before. {why}")
        self._placed = weights(model)

    def _mark_companions(self) -> None:
        """Marks the companions as part of the model. Nothing moves before the next action."""
        import torch

        companions = [module for module in self.host.companions() if isinstance(module, torch.nn.Module)]
        found = [weights(module, 1) for module in companions]
        if found == self._companions:
            return
        self._companions = found
        with contextlib.suppress(_library.Error):
            _placement.mark(companions)

    # ---- Generations -----------------------------------------------------------------------------

    def begin(self, kind: str) -> str:
        """Begins a generation. No work of it may have been launched yet.

        `kind` names work with the same need of memory, for example the size of its pictures.
        Returns a few words about the placement for the picture's description, or "". Where the host
        can still change them after the last step, those of `note` say what it has cost.
        """
        if not _status.is_installed():
            return ""
        self._place_again()
        try:
            # What moves at the safe point, moves for this generation.
            started = _report.stats(self.device)
            self._follow_passes(kind)
            # If previews do not end in time, the library notices them and moves nothing.
            with self.gate.quiet(_PATIENCE):
                _follow.safe_point(kind, self.device)
            _library.call("gk_reset_peaks", self.device)
            found = _report.stats(self.device)
            before = {**found, **{name: started[name] for name in COUNTED}} if found["in_use"] else None
        except _library.Error:
            before = None
        self._generations.begin(kind, before)
        if before is None:
            return ""
        shared = _report.size(before["shared_allocated"])
        return f"{_state.mode(before)}; reserve {_report.size(before['reserve'])}; {shared} in shared memory"

    def note(self) -> str:
        """A few words about what the current generation has cost, for the picture's description.

        They are "" where that is not known, because an action moved memory during it.
        """
        if not _status.is_installed():
            return ""
        try:
            now = _report.stats(self.device)
        except _library.Error:
            return ""
        found = self._generations.cost_so_far(now)
        return "" if found is None else f"{_state.mode(now)}; {found.short()}"

    def _follow_passes(self, kind: str = "") -> None:
        """Follows the passes of model and decoder in generations of a kind, or stops following."""
        for following in self._following:
            following.remove()
        parts = {"model": self.host.model(), "decoder": self.host.decoder()} if kind else {}
        known = {name: module for name, module in parts.items() if module is not None}
        self._following = [_follow.follow(module, f"{name} {kind}", self.device) for name, module in known.items()]

    def report(self, trouble: str) -> None:
        """Shows an error on the page until the next action, if nobody else can report it."""
        self._trouble = trouble

    def iteration(self, done: int | None = None) -> None:
        """Notes that a sampling step is done, or `done` steps if the WebUI counts them itself.

        A number that is not greater than the last one means that a new sampling has begun.
        """
        if _status.is_installed():
            # Some WebUIs load the model during the generation, or another one for its later steps.
            self._place_again(thorough=self._generations.is_at_its_beginning())
            self._mark_companions()
        self._generations.step(done)

    def end(self) -> None:
        """Notes that the generation is over, finished or not."""
        before = self._generations.end()
        self._follow_passes()
        if before is None or not _status.is_installed():
            return
        with contextlib.suppress(_library.Error):
            self._generations.observe(before, _report.stats(self.device))

    # ---- State -----------------------------------------------------------------------------------

    def guide(self) -> _guide.Guide | None:
        """The guidance from the last generation; None without one or without the allocator."""
        if not _status.is_installed():
            return None
        try:
            return _guide.guide(_report.stats(self.device), self._generations.observation())
        except _library.Error:
            return None

    def overflow(self) -> int:
        """The bytes by which the last generation has overflowed; 0 where that is not known."""
        found = self._generations.observation()
        return 0 if found is None else found.overflow

    def state(self) -> dict[str, Any]:
        """The state that map.js draws."""
        found = _state.state((self.device,), self._generations.observation())
        found["work"] = self._generations.state()
        found["problem"] = found["problem"] or self._trouble
        found["by_hand"] = self.by_hand is not None
        found["reserve_by_hand"] = None if self.by_hand is None else self.by_hand.reserve or 0
        found["freed"] = self.is_freed
        return found
