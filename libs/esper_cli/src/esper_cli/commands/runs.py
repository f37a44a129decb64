"""Commands about training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from esper_cli.follow import follow
from esper_cli.options import DEFAULT_STATE_DIR, Json, StateDir
from esper_cli.output import OUT, print_json, print_table, say
from esper_cli.run_client import RunClient, raise_unless_completed
from esper_cli.run_spec import RunOptions, run_spec, unique, whole_number
from esper_cli.run_views import row, run_summary, tell
from esper_cli.stack_client import StackClient
from esper_cli.static_replay import RATES, replay_static
from esper_cli.teacher import TeacherOptions, reset_teacher, teacher_spec
from esper_core import leyline
from esper_core.pb.esper.tolaria.v1 import tolaria_pb2

app = typer.Typer(name="run", help="Submit, watch and steer training runs.", no_args_is_help=True)
RunId = Annotated[str, typer.Argument(help="Id of the run, as `esper run list` shows it.")]
Reason = Annotated[str, typer.Option(help="Why; it stays in the history of the run.")]
Texts = list[str] | None


@app.command()
def submit(  # noqa: PLR0913, PLR0917 - one option each for what a run can be told
    task: Annotated[str, typer.Argument(help="letter, mnist1d, kjv, digits, or module:function of your own.")],
    policy: Annotated[
        str, typer.Option(help="Who decides about growth: schedule, heuristic, learned, none.")
    ] = "schedule",
    size: Annotated[str, typer.Option(help="Size of the host that the task knows, such as small or big.")] = "",
    param: Annotated[Texts, typer.Option(help="Task parameter as name=value; may be repeated.")] = None,
    flops: Annotated[str, typer.Option(help="Budget of training FLOPs, such as 14e9.")] = "0",
    steps: Annotated[int, typer.Option(min=0, help="Budget of optimizer steps.")] = 0,
    epochs: Annotated[int, typer.Option(min=0, help="Budget of epochs.")] = 0,
    lr: Annotated[float, typer.Option(min=0, help="Learning rate.")] = 0.0,
    optimizer: Annotated[str, typer.Option(help="adam, adamw or sgd.")] = "",
    lr_policy: Annotated[str, typer.Option(help="constant, cosine, step or plateau.")] = "",
    seed_lr: Annotated[
        float, typer.Option(min=0, help="Learning rate of seeds over the host's, at most 2; 0 for 0.5.")
    ] = 0.0,
    batch_size: Annotated[int, typer.Option(min=0, help="Examples per step.")] = 0,
    accumulate: Annotated[int, typer.Option(min=0, help="Parts in which a batch goes through the model.")] = 0,
    pcgrad: Annotated[str, typer.Option(help="Project conflicting gradients of losses by microbatch or seed.")] = "",
    attribution: Annotated[
        str, typer.Option(help="Attribute the movement of the loss to host and seeds by approx or probe.")
    ] = "",
    gradient_scale: Annotated[
        Texts, typer.Option(help="Factor on seeds' gradients as [site:]stage=factor; may be repeated.")
    ] = None,
    site: Annotated[Texts, typer.Option(help="Site where it may grow; may be repeated.")] = None,
    blueprint: Annotated[Texts, typer.Option(help="Blueprint it may use; may be repeated.")] = None,
    max_seeds: Annotated[int, typer.Option(min=0, help="Most seeds.")] = 0,
    max_parameters: Annotated[int, typer.Option(min=0, help="Most parameters of the grown model.")] = 0,
    allow_restricted: Annotated[
        bool, typer.Option("--allow-restricted", help="Let kernels grow that their assessment restricts.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the run.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda[:n].")] = "",
    precision: Annotated[str, typer.Option(help="float32, bfloat16 or float16 for the forward pass.")] = "",
    compile_it: Annotated[bool, typer.Option("--compile", help="Compile the model block by block.")] = False,
    label: Annotated[str, typer.Option(help="Name for people.")] = "",
    start_from: Annotated[str, typer.Option("--from", help="Checkpoint folder to start from.")] = "",
    on_control_loss: Annotated[str, typer.Option(help="continue or halt when the controller is away.")] = "",
    teacher: Annotated[
        str, typer.Option(help="Learn from a model too: a run that has ended, a checkpoint, or an exported folder.")
    ] = "",
    teacher_weight: Annotated[
        float | None, typer.Option(help="Factor on the teacher's loss, 0.3 if not given.")
    ] = None,
    teacher_temperature: Annotated[
        float | None, typer.Option(help="Temperature at which answers are compared, 4 if not given.")
    ] = None,
    teacher_memory_mib: Annotated[
        int, typer.Option(min=0, help="Most memory that the teacher may take, in MiB; 0 for 1024.")
    ] = 0,
    follow_it: Annotated[bool, typer.Option("--follow", "-f", help="Show the run until it has ended.")] = False,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: Json = False,
) -> None:
    """Submit a run; with --follow show it to its end and exit by how it ended."""
    runs = _runs(state_dir)
    wanted = TeacherOptions(teacher, teacher_weight, teacher_temperature, teacher_memory_mib)
    options = RunOptions(
        task=task,
        policy=policy,
        size=size,
        parameters=unique(param),
        flops=whole_number(flops, "--flops"),
        steps=steps,
        epochs=epochs,
        learning_rate=lr,
        optimizer=optimizer,
        schedule=lr_policy,
        seed_factor=seed_lr,
        batch_size=batch_size,
        gradient_accumulation=accumulate,
        pcgrad=pcgrad,
        attribution=attribution,
        gradient_scales=unique(gradient_scale),
        sites=unique(site),
        blueprints=unique(blueprint),
        max_seeds=max_seeds,
        max_parameters=max_parameters,
        allow_restricted=allow_restricted,
        random_seed=seed,
        device=device,
        precision=precision,
        compile=compile_it,
        label=label,
        start_from=start_from,
        on_control_loss=on_control_loss,
        teacher=teacher_spec(wanted, runs),
    )
    status = runs.submit(run_spec(options))
    if follow_it:
        _follow(runs, status.training_run_id, as_json)
        return
    print_json(run_summary(status)) if as_json else OUT.print(status.training_run_id)


@app.command()
def watch(run_id: RunId, state_dir: StateDir = DEFAULT_STATE_DIR, as_json: Json = False) -> None:
    """Show a run from its beginning until it has ended."""
    _follow(_runs(state_dir), run_id, as_json)


@app.command("list")
def list_runs(state_dir: StateDir = DEFAULT_STATE_DIR, as_json: Json = False) -> None:
    """List runs, newest first."""
    answer = _runs(state_dir).call("ListRuns", tolaria_pb2.ListRunsRequest())
    if as_json:
        print_json({"runs": [run_summary(status) for status in answer.runs]})
        return
    print_table("", ("run", "task", "state", "done", "step", "parameters", "accuracy", "why"), map(row, answer.runs))


@app.command()
def show(run_id: RunId, state_dir: StateDir = DEFAULT_STATE_DIR, as_json: Json = False) -> None:
    """Tell how a run is now."""
    tell(_runs(state_dir).status(run_id), as_json)


@app.command()
def pause(
    run_id: RunId,
    reason: Reason = "asked for on the command line",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: Json = False,
) -> None:
    """Pause a run at its next fence."""
    _steer(state_dir, "PauseRun", tolaria_pb2.PauseRunRequest(training_run_id=run_id, reason=reason), as_json)


@app.command()
def resume(run_id: RunId, state_dir: StateDir = DEFAULT_STATE_DIR, as_json: Json = False) -> None:
    """Resume a paused or halted run."""
    _steer(state_dir, "ResumeRun", tolaria_pb2.ResumeRunRequest(training_run_id=run_id), as_json)


@app.command()
def halt(
    run_id: RunId,
    reason: Reason = "asked for on the command line",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: Json = False,
) -> None:
    """Halt a run at its next fence, with a checkpoint from which it can be resumed."""
    _steer(state_dir, "HaltRun", tolaria_pb2.HaltRunRequest(training_run_id=run_id, reason=reason), as_json)


@app.command()
def rollback(
    run_id: RunId,
    to_step: Annotated[
        int | None, typer.Option(min=0, help="Step to return to; the last good one if not given.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Use a durable checkpoint at once.")] = False,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: Json = False,
) -> None:
    """Roll a run back to an earlier state."""
    request = tolaria_pb2.RollbackRunRequest(training_run_id=run_id, to_step=to_step, full=full)
    report = _runs(state_dir).call("RollbackRun", request, 60.0)
    if as_json:
        print_json(report)
        return
    outcome = leyline.RollbackOutcome.Name(report.outcome).removeprefix("ROLLBACK_OUTCOME_")
    say(f"{outcome} in {report.latency_ms:.1f} ms, step {report.restored_step}. {report.message}")


@app.command()
def checkpoints(run_id: RunId, state_dir: StateDir = DEFAULT_STATE_DIR, as_json: Json = False) -> None:
    """List the durable checkpoints of a run, newest first."""
    answer = _runs(state_dir).call("ListCheckpoints", tolaria_pb2.ListCheckpointsRequest(training_run_id=run_id))
    if as_json:
        print_json(answer)
        return
    rows = (
        (row.checkpoint_id, row.step, row.reason, row.size_bytes, row.problem or "good") for row in answer.checkpoints
    )
    print_table(answer.folder, ("checkpoint", "step", "written for", "bytes", "state"), rows)


@app.command()
def export(
    run_id: RunId,
    folder: Annotated[Path, typer.Argument(help="Folder to write; must not exist or be empty.")],
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: Json = False,
) -> None:
    """Write the grown model as safetensors and topology.json; it loads without Esper's services."""
    request = tolaria_pb2.ExportRunRequest(training_run_id=run_id, folder=str(folder.expanduser().absolute()))
    answer = _runs(state_dir).call("ExportRun", request, 120.0)
    print_json(answer) if as_json else say(f"Exported to {answer.folder}: {', '.join(answer.files)}")


@app.command("reset-teacher")
def forget_teacher(
    run_id: RunId,
    reason: Reason = "asked for on the command line",
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: Json = False,
) -> None:
    """Let the teacher of a growing run go at its next fence, for good."""
    had_teacher = reset_teacher(StackClient.of(state_dir), run_id, reason)
    if as_json:
        print_json({"run_id": run_id, "had_teacher": had_teacher})
        return
    say(f"The teacher of run {run_id} goes at its next fence." if had_teacher else f"Run {run_id} has no teacher.")


@app.command("replay-static")
def replay(
    run_id: RunId,
    rate: Annotated[list[float] | None, typer.Option(help="Learning rate to try; may be repeated.")] = None,
    state_dir: StateDir = DEFAULT_STATE_DIR,
    as_json: Json = False,
) -> None:
    """Train a run's final network from scratch at equal FLOPs, and tell whether growing it mattered."""
    runs = _runs(state_dir)

    def follow_labelled(new_run: str, label: str) -> None:
        say(f"{label}: run {new_run}")
        follow(runs.events(new_run), label)

    found = replay_static(runs, run_id, rate or RATES, follow_labelled)
    if as_json:
        print_json(found.as_json())
        return
    rows = (
        (name, f"{summary['accuracy']:.4f}", summary["parameters_final"], f"{summary['flops']:.3g}", summary["run_id"])
        for name, summary in (("grown", found.grown), ("static", found.static))
    )
    print_table("", ("network", "accuracy", "parameters", "FLOPs", "run"), rows)
    OUT.print(found.claim())


def _runs(state_dir: Path) -> RunClient:
    return RunClient(StackClient.of(state_dir))


def _follow(runs: RunClient, run_id: str, as_json: bool) -> None:
    follow(runs.events(run_id), run_id)
    status = runs.status(run_id)
    tell(status, as_json)
    if not as_json:
        raise_unless_completed(status)
    elif status.state != leyline.RUN_STATE_COMPLETED:
        raise typer.Exit(1)


def _steer(state_dir: Path, method: str, request: object, as_json: bool) -> None:
    tell(_runs(state_dir).call(method, request, 60.0), as_json)
