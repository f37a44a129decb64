"""A scripted runtime on a real Execute stream: it answers directives and reports evidence as a trainer would."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from esper_core import leyline
from esper_core.blueprints import KernelSpec, SiteContract
from esper_core.blueprints.messages import contract_to_message, parameters_to_messages
from esper_core.ids import new_command_id
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2, kasmina_pb2_grpc
from esper_core.pb.esper.urza.v1 import urza_pb2, urza_pb2_grpc
from esper_core.security import Keyring, MessageSigner
from support.waiting import await_until

BLUEPRINT = "mlp_residual.v1"
CONTRACT = SiteContract("features", 16)
TOTAL_STEPS = 400
LAYERS = ("body", "body.0", "head")


def kernel_of(blueprint_id: str, weights: bytes) -> leyline.KernelDescriptor:
    """Describe a kernel of a blueprint with default parameters at the test's site."""
    spec = KernelSpec(blueprint_id, CONTRACT)
    return leyline.KernelDescriptor(
        version=1,
        blueprint_id=blueprint_id,
        parameters=parameters_to_messages(spec.parameters),
        contract=contract_to_message(CONTRACT),
        weights_digest=hashlib.sha256(weights).hexdigest(),
        spec_digest=spec.digest,
        size_bytes=len(weights),
        parameter_count=100,
    )


async def put_kernel(channel: grpc.aio.Channel, blueprint_id: str = BLUEPRINT) -> leyline.KernelDescriptor:
    """Put a kernel into Urza, as Urabrask does."""
    weights = blueprint_id.encode() * 100
    kernel = kernel_of(blueprint_id, weights)

    async def parts() -> AsyncIterator[urza_pb2.PutKernelRequest]:
        yield urza_pb2.PutKernelRequest(descriptor=kernel)
        yield urza_pb2.PutKernelRequest(chunk=weights)

    return await urza_pb2_grpc.LibraryStub(channel).PutKernel(parts())


@dataclass
class Held:
    """A seed as this runtime holds it."""

    stage: int
    since: int
    ramp: int = 1
    alpha: float = 0.0


@dataclass
class StreamRuntime:
    """One run; `connect` opens a stream, `train` goes on, `command` asks like Tamiyo.

    What Kasmina said is kept by kind in `said`, over reconnections.
    """

    run_id: str
    keyring: Keyring
    contribution: float = 0.05
    step: int = 0
    generation: int = 0
    held: dict[str, Held] = field(default_factory=dict)
    said: dict[str, list[Any]] = field(default_factory=dict)
    applied: dict[str, leyline.DirectiveResult] = field(default_factory=dict)
    mute: bool = False
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    blueprint_ids: tuple[str, ...] = (BLUEPRINT, "norm.v1")
    teacher_id: str = ""

    async def connect(self, channel: grpc.aio.Channel) -> kasmina_pb2.Welcome:
        """Open a stream, say hello, and return the welcome."""
        welcomes = len(self.of("welcome"))
        self.call = kasmina_pb2_grpc.ExecutorStub(channel).Execute()
        self.listening = asyncio.create_task(self._listen())
        await self.say(hello=self.hello())
        await await_until(lambda: len(self.of("welcome")) > welcomes or self.listening.done(), what="a welcome")
        if len(self.of("welcome")) == welcomes:
            await self.listening
        welcome: kasmina_pb2.Welcome = self.of("welcome")[-1]
        return welcome

    def hello(self) -> kasmina_pb2.Hello:
        """Return what this runtime says about itself."""
        site = leyline.Site(name="hidden", module_path="body.0", contract=contract_to_message(CONTRACT))
        inventory = [
            leyline.SeedState(
                seed_id=name,
                site="hidden",
                stage=leyline.SeedStage.ValueType(held.stage),
                blueprint_id=BLUEPRINT,
                alpha=held.alpha,
            )
            for name, held in self.held.items()
        ]
        return kasmina_pb2.Hello(
            version=1,
            training_run_id=self.run_id,
            generation=self.generation,
            inventory=inventory,
            sites=[site],
            blueprint_ids=self.blueprint_ids,
            total_steps=TOTAL_STEPS,
            global_step=self.step,
            steps_per_epoch=20,
            host_layers=LAYERS,
            teacher_id=self.teacher_id,
        )

    def of(self, kind: str) -> list[Any]:
        """Return everything of one kind that Kasmina has said."""
        return self.said.setdefault(kind, [])

    async def say(self, **part: Any) -> None:
        """Send one message; on a stream that has ended, raise what ended it."""
        async with self.writing:
            try:
                await self.call.write(kasmina_pb2.ExecuteRequest(**part))
            except asyncio.InvalidStateError:
                problem = f"the stream has ended: {await self.call.code()} {await self.call.details()}"
                raise AssertionError(problem) from None

    async def close(self) -> None:
        """End the stream in good order."""
        self.mute = True
        async with self.writing:
            await self.call.done_writing()
        await self.listening

    def cut(self) -> None:
        """End the stream as a crash would."""
        self.call.cancel()
        self.listening.cancel()

    async def command(self, command: leyline.AdaptationCommand) -> leyline.CommandOutcome:
        """Send a command and return its outcome."""
        known = len(self.of("outcome"))
        await self.say(command=command)
        await await_until(lambda: len(self.of("outcome")) > known, 30, what="an outcome")
        outcome: leyline.CommandOutcome = self.of("outcome")[-1]
        return outcome

    def signed(self, **fields: Any) -> leyline.AdaptationCommand:
        """Return a command as Tamiyo signs it; `fields` override."""
        plain: dict[str, Any] = {
            "version": 1,
            "command_id": new_command_id(),
            "training_run_id": self.run_id,
            "based_on_generation": self.generation,
            "type": leyline.COMMAND_TYPE_SEED,
            "issued_by": "tamiyo",
            **fields,
        }
        return MessageSigner(self.keyring, "command", window_s=60.0).sign(leyline.AdaptationCommand(**plain))

    def germinate(self, blueprint_id: str = BLUEPRINT, **fields: Any) -> leyline.AdaptationCommand:
        """Return a signed GERMINATE."""
        operation = leyline.CommandSeedOperation(
            operation=leyline.SEED_OPERATION_GERMINATE,
            blueprint_id=blueprint_id,
            parameters=fields.pop("parameters", ()),
        )
        return self.signed(**{"target_site": "hidden", "seed_operation": operation, **fields})

    def about(self, seed_id: str, operation: int) -> leyline.AdaptationCommand:
        """Return a signed command about a seed."""
        payload = leyline.CommandSeedOperation(operation=leyline.SeedOperation.ValueType(operation))
        return self.signed(target_seed_id=seed_id, seed_operation=payload)

    async def train(self, steps: int, every: int = 4) -> None:
        """Train some steps with reports, letting Kasmina answer in between."""
        for _ in range(0, steps, every):
            self.step += every
            epoch, end = self.step // 20, self.step % 20 == 0
            await self.say(
                boundary=kasmina_pb2.Boundary(
                    global_step=self.step, epoch=epoch, generation=self.generation, epoch_end=end
                )
            )
            for name, held in tuple(self.held.items()):
                if held.stage != leyline.SEED_STAGE_FOSSILIZED:
                    await self.say(evidence=self.evidence(name, held))
            await asyncio.sleep(0)

    async def train_until(self, seed_id: str, stage: int) -> None:
        """Train until this runtime holds the seed in a stage or a later one."""

        async def arrived() -> bool:
            await self.train(4)
            held = self.held.get(seed_id)
            return held is not None and held.stage >= stage

        reached: bool = await await_until(arrived, 60.0, what=f"stage {stage} of {self.held}")
        assert reached

    def evidence(self, seed_id: str, held: Held) -> leyline.SeedEvidence:
        """Measure a seed."""
        if held.stage == leyline.SEED_STAGE_BLENDING:
            held.alpha = min(1.0, (self.step - held.since) / held.ramp)
        message = leyline.SeedEvidence(
            training_run_id=self.run_id,
            seed_id=seed_id,
            generation=self.generation,
            global_step=self.step,
            epoch=self.step // 20,
            stage=leyline.SeedStage.ValueType(held.stage),
            alpha=held.alpha,
            gradient_norm=0.5,
            finite=True,
            alpha_monotone=True,
            loss=0.9,
            loss_at_germination=1.0,
            host_layers_present=LAYERS,
        )
        if held.stage >= leyline.SEED_STAGE_SHADOWING:
            probe = leyline.ContributionProbe(
                mean_loss_with=0.9,
                mean_loss_without=0.9 + self.contribution,
                contribution=self.contribution,
                ci_low=self.contribution - 0.01,
                ci_high=self.contribution + 0.01,
                examples=512,
            )
            message.contribution.CopyFrom(probe)
        return message

    async def _listen(self) -> None:
        async for response in self.call:
            kind = str(response.WhichOneof("response"))
            message = getattr(response, kind)
            self.of(kind).append(message)
            if kind == "directive" and not self.mute:
                await self.say(result=self.apply(message))

    def apply(self, directive: leyline.Directive) -> leyline.DirectiveResult:
        """Do what a directive says; one that was done before is answered from memory."""
        known = self.applied.get(directive.directive_id)
        if known is not None:
            return known
        removed = directive.kind in (leyline.DIRECTIVE_KIND_DETACH, leyline.DIRECTIVE_KIND_RESET)
        self._obey(directive)
        result = leyline.DirectiveResult(
            directive_id=directive.directive_id,
            training_run_id=self.run_id,
            seed_id=directive.seed_id,
            kind=directive.kind,
            applied=True,
            generation=self.generation,
            global_step=self.step,
            apply_ms=0.2,
            parameter_count=100,
            removed_cleanly=removed,
        )
        self.applied[directive.directive_id] = result
        return result

    def _obey(self, directive: leyline.Directive) -> None:
        if directive.kind == leyline.DIRECTIVE_KIND_ATTACH:
            self.generation += 1
            self.held[directive.seed_id] = Held(leyline.SEED_STAGE_GERMINATED, self.step)
        elif directive.kind == leyline.DIRECTIVE_KIND_SET_BLEND:
            self.held[directive.seed_id].ramp = directive.blend.end_steps
        elif directive.kind == leyline.DIRECTIVE_KIND_SET_STAGE:
            held = self.held[directive.seed_id]
            held.stage, held.since = directive.set_stage.stage, self.step
            self.generation += held.stage == leyline.SEED_STAGE_FOSSILIZED
        elif directive.kind == leyline.DIRECTIVE_KIND_DETACH:
            self.generation += 1
            self.held.pop(directive.seed_id, None)
