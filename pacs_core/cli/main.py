"""Every command's name, arguments and help. What a command does is imported when it is called: `pacs listen` must
answer at once, and a mistyped option must not cost a second."""

import warnings
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pacs_core.cli.errors import exit_status
from pacs_core.model import Permission

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    help="A medical image archive whose operations are workflows.",
)
peers = typer.Typer(no_args_is_help=True, help="The remote application entities that the archive may call.")
worklist = typer.Typer(no_args_is_help=True, help="What is scheduled: the modality worklist.")
mpps = typer.Typer(no_args_is_help=True, help="Performed procedure steps by hand: what a modality would say (MPPS).")
holds = typer.Typer(no_args_is_help=True, help="Studies that retention must not touch.")
index = typer.Typer(
    no_args_is_help=True, help="The index as a whole: back it up, restore it, rebuild it from storage. Needs no flow engine."
)
flows = typer.Typer(no_args_is_help=True, help="The archive's operations: list, run, pause, resume, and what they did.")
app.add_typer(peers, name="peer")
app.add_typer(worklist, name="worklist")
app.add_typer(mpps, name="mpps")
app.add_typer(holds, name="hold")
app.add_typer(flows, name="flow")
app.add_typer(index, name="index")


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


class QueryLevel(StrEnum):
    """Query/Retrieve levels."""

    PATIENT = "patient"
    STUDY = "study"
    SERIES = "series"
    IMAGE = "image"


class Root(StrEnum):
    """Query/Retrieve information models."""

    PATIENT = "patient"
    STUDY = "study"


Home = Annotated[Path | None, typer.Option("--home", help="The archive's directory. Default: PACS_HOME, else ~/pacs.", show_default=False)]
Remote = Annotated[
    str, typer.Option("--peer", "-p", help="Whom to call: a peer's AE title, or AE@HOST:PORT. Default: this archive.", show_default=False)
]
Calling = Annotated[str, typer.Option("--aet", help="Our AE title in the association. Default: this archive's.", show_default=False)]
Keys = Annotated[list[str], typer.Option("--key", "-k", help="A key: Keyword=value, or Keyword alone to have it returned. Repeatable.")]
Level = Annotated[QueryLevel, typer.Option("--level", "-l", help="The level of the query.")]
Model = Annotated[Root, typer.Option("--root", help="The information model.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Destination = Annotated[
    str, typer.Option("--destination", "-d", help="A tier, a directory or a URL. Default: `backups` in the home.", show_default=False)
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How rows are printed.")]


@app.command()
def up(home: Home = None) -> None:
    """Start the archive with all its parts and keep them running."""
    from pacs_core.cli.up import up as start

    start(home)


@app.command()
def listen(
    committer: Annotated[bool, typer.Option(help="Keep a committer running, unless another process of this home does.")] = True,
    home: Home = None,
) -> None:
    """Run one DICOM listener process. Any number of them share the port."""
    from pacs_core.cli import archive

    archive.listen(home, with_committer=committer)


@app.command()
def commit(
    until_end_of_input: Annotated[bool, typer.Option(help="Also end, in order, when standard input does.")] = False,
    home: Home = None,
) -> None:
    """Index what is acknowledged. Only one process of a home does it at a time; `pacs listen` starts one by itself."""
    from pacs_core.cli import committing

    committing.commit(home, until_end_of_input=until_end_of_input)


@app.command(name="hl7")
def orders(home: Home = None) -> None:
    """Take orders by HL7 v2 over MLLP on hl7_port; they become worklist items. `pacs up` runs it where the port is set."""
    from pacs_core.cli import orders as commands

    commands.serve(home)


@app.command()
def status(home: Home = None, format: Annotated[Format, typer.Option("--format", "-f", help="table or json")] = Format.TABLE) -> None:  # noqa: A002  # the option's name
    """Show each part, its address, what is held, and the size of each tier. Exit status 1 unless all parts run."""
    from pacs_core.cli import archive

    archive.status(home, format)


@app.command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(help="Folders, zip files, DICOMDIR media or DICOM files.")], home: Home = None
) -> None:
    """Take in DICOM files from disk. Started again after an interruption, it continues where it was."""
    from pacs_core.cli import archive

    archive.import_paths(home, paths)


@app.command()
def sql(
    command: Annotated[str | None, typer.Option("-c", "--command", help="Run this query and exit.", show_default=False)] = None,
    format: FormatOption = Format.TABLE,  # noqa: A002  # the option's name
    home: Home = None,
) -> None:
    """Query the index with SQL (read-only). Without -c: an interactive console."""
    from pacs_core.cli import sql as console

    console.run(home, command, format)


@app.command()
def echo(peer: Remote = "", aet: Calling = "", home: Home = None) -> None:
    """Verify the connection to a peer (C-ECHO)."""
    from pacs_core.cli import network

    network.echo(network.target(home, peer, aet))


@app.command()
def store(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders.")],
    commit: Annotated[bool, typer.Option("--commit", help="Have the peer commit to what it was sent (storage commitment).")] = False,
    commit_timeout: Annotated[float, typer.Option(min=1, max=86_400, help="Seconds to wait for that.")] = 60,
    peer: Remote = "",
    aet: Calling = "",
    home: Home = None,
) -> None:
    """Send DICOM files to a peer (C-STORE). Exit status 1 unless it takes them all, and with --commit commits to them."""
    from pacs_core.cli import network

    network.store(network.target(home, peer, aet), paths, network.commitment(home, commit_timeout) if commit else None)


@app.command()
def find(
    key: Keys = [],  # noqa: B006  # Typer copies it
    level: Level = QueryLevel.STUDY,
    root: Model = Root.STUDY,
    format: FormatOption = Format.TABLE,  # noqa: A002  # the option's name
    peer: Remote = "",
    aet: Calling = "",
    home: Home = None,
) -> None:
    """Ask a peer what it holds (C-FIND)."""
    from pacs_core.cli import network

    network.find(network.target(home, peer, aet), level, root, key, format)


@app.command()
def move(
    destination: Annotated[str, typer.Argument(help="The AE title to send to, as the peer knows it.")],
    key: Keys,
    level: Level = QueryLevel.STUDY,
    root: Model = Root.STUDY,
    peer: Remote = "",
    aet: Calling = "",
    home: Home = None,
) -> None:
    """Have a peer send instances to a third party (C-MOVE)."""
    from pacs_core.cli import network

    network.move(network.target(home, peer, aet), destination, level, root, key)


@app.command()
def get(
    key: Keys,
    level: Level = QueryLevel.STUDY,
    root: Model = Root.STUDY,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write to.")] = Path(),
    peer: Remote = "",
    aet: Calling = "",
    home: Home = None,
) -> None:
    """Fetch instances from a peer into a folder (C-GET)."""
    from pacs_core.cli import network

    network.get(network.target(home, peer, aet), level, root, key, output)


@app.command("print")
def print_(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders. Of an instance with several frames, the first.")],
    layout: Annotated[str, typer.Option(help="Images on a film, COLUMNSxROWS.")] = "1x1",
    size: Annotated[str, typer.Option(help="Of the film, such as 14INX17IN or A4. Default: the printer's.", show_default=False)] = "",
    landscape: Annotated[bool, typer.Option("--landscape", help="Lay the film on its side.")] = False,
    copies: Annotated[int, typer.Option(min=1, max=99, help="Of each film.")] = 1,
    medium: Annotated[str, typer.Option(help="Such as PAPER or BLUE FILM. Default: the printer's.", show_default=False)] = "",
    magnification: Annotated[
        str, typer.Option(help="REPLICATE, BILINEAR, CUBIC or NONE. Default: the printer's.", show_default=False)
    ] = "",
    label: Annotated[str, typer.Option(help="What the film session is called.", show_default=False)] = "",
    color: Annotated[bool, typer.Option("--color", help="Print in color. Default: in gray.")] = False,
    peer: Remote = "",
    aet: Calling = "",
    home: Home = None,
) -> None:
    """Print DICOM images on a peer (print management). Exit status 1 unless all of them are."""
    from pacs_core.cli import network, printing
    from pacs_core.dimse.printing import Wish

    columns, rows = printing.layout(layout)
    wish = Wish(
        columns=columns,
        rows=rows,
        copies=copies,
        film_size=size,
        orientation="LANDSCAPE" if landscape else "",
        medium=medium,
        label=label,
        magnification=magnification,
    )
    printing.print_files(network.target(home, peer, aet), paths, wish, color=color)


@peers.command("add")
def peer_add(
    ae_title: str,
    host: str,
    port: Annotated[int, typer.Argument(min=1, max=65535)],
    tls: Annotated[bool, typer.Option("--tls", help="Call it over TLS; see tls_ca_file and its neighbours in the settings.")] = False,
    may: Annotated[
        list[Permission], typer.Option("--may", help="What it may do. Repeatable. Default: everything.", show_default=False)
    ] = [],  # noqa: B006  # Typer copies it
    transfer_syntax: Annotated[
        list[str],
        typer.Option(
            "--transfer-syntax", help="Send it instances in this one (a UID or a name). Repeatable. Default: any.", show_default=False
        ),
    ] = [],  # noqa: B006  # Typer copies it
    home: Home = None,
) -> None:
    """Enter a peer, or change all that is known of it."""
    from pacs_core.cli import manage

    manage.peer_add(home, ae_title, host, port, tls=tls, may=may, transfer_syntaxes=transfer_syntax)


@peers.command("list")
def peer_list(format: FormatOption = Format.TABLE, home: Home = None) -> None:  # noqa: A002  # the option's name
    """Show the peers."""
    from pacs_core.cli import manage

    manage.peer_list(home, format)


@peers.command("remove")
def peer_remove(ae_title: str, home: Home = None) -> None:
    """Forget a peer."""
    from pacs_core.cli import manage

    manage.peer_remove(home, ae_title)


@peers.command("test")
def peer_test(ae_title: str, home: Home = None) -> None:
    """C-ECHO a peer."""
    from pacs_core.cli import network

    network.echo(network.target(home, ae_title, ""))


@worklist.command("add")
def worklist_add(
    patient_id: Annotated[str, typer.Option(help="PatientID.")],
    name: Annotated[str, typer.Option(help="PatientName, as Family^Given.")],
    station: Annotated[str, typer.Option(help="The AE title of the modality.")],
    modality: Annotated[str, typer.Option(help="Such as CT.")],
    start: Annotated[datetime, typer.Option(help="When the step is to begin.")],
    birth_date: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d", "%Y%m%d"], show_default=False)] = None,
    sex: Annotated[str, typer.Option(help="M, F or O.")] = "",
    accession: Annotated[str, typer.Option(help="AccessionNumber.")] = "",
    procedure: Annotated[str, typer.Option(help="RequestedProcedureID. Default: the accession number, or one that is made.")] = "",
    description: Annotated[str, typer.Option(help="Of the requested procedure and its step.")] = "",
    study: Annotated[str, typer.Option(help="StudyInstanceUID. Default: one that is made.")] = "",
    step: Annotated[str, typer.Option(help="ScheduledProcedureStepID. Default: the requested procedure's.")] = "",
    referring: Annotated[str, typer.Option(help="ReferringPhysicianName.")] = "",
    home: Home = None,
) -> None:
    """Schedule a procedure step; for what else there is to say, use `pacs worklist import`."""
    from pacs_core.cli import worklist as commands

    given = {
        "PatientID": patient_id,
        "PatientName": name,
        "PatientBirthDate": birth_date.strftime("%Y%m%d") if birth_date else "",
        "PatientSex": sex,
        "AccessionNumber": accession,
        "RequestedProcedureID": procedure,
        "RequestedProcedureDescription": description,
        "ReferringPhysicianName": referring,
        "StudyInstanceUID": study,
        "ScheduledProcedureStepID": step,
        "ScheduledProcedureStepDescription": description,
        "ScheduledStationAETitle": station,
        "Modality": modality,
        "ScheduledProcedureStepStartDate": start.strftime("%Y%m%d"),
        "ScheduledProcedureStepStartTime": start.strftime("%H%M%S"),
    }
    commands.add(home, {keyword: value for keyword, value in given.items() if value})


@worklist.command("import")
def worklist_import(
    paths: Annotated[list[Path], typer.Argument(help="Files or folders: .json, .csv, or .wl as DCMTK's wlmscpfs keeps them.")],
    home: Home = None,
) -> None:
    """Schedule what files say. What is there already is changed. Exit status 1 if anything could not be; the rest is."""
    from pacs_core.cli import worklist as commands

    commands.import_paths(home, paths)


@worklist.command("list")
def worklist_list(
    everything: Annotated[bool, typer.Option("--all", help="Also what is done or cancelled.")] = False,
    format: FormatOption = Format.TABLE,  # noqa: A002  # the option's name
    home: Home = None,
) -> None:
    """Show what is still to be done."""
    from pacs_core.cli import worklist as commands

    commands.list_(home, format, everything=everything)


@worklist.command("remove")
def worklist_remove(
    item: Annotated[str, typer.Argument(help="An AccessionNumber or a StudyInstanceUID.")],
    home: Home = None,
) -> None:
    """Take items off the worklist for good."""
    from pacs_core.cli import worklist as commands

    commands.remove(home, item)


@mpps.command("create")
def mpps_create(
    patient_id: Annotated[str, typer.Option(help="PatientID.")],
    modality: Annotated[str, typer.Option(help="Such as CT.")],
    name: Annotated[str, typer.Option(help="PatientName.")] = "",
    accession: Annotated[str, typer.Option(help="AccessionNumber.")] = "",
    study: Annotated[str, typer.Option(help="StudyInstanceUID. Default: one that is made.")] = "",
    step: Annotated[str, typer.Option(help="ScheduledProcedureStepID. Default: nobody had scheduled it.")] = "",
    station: Annotated[str, typer.Option(help="The AE title of the modality. Default: the calling one.")] = "",
    peer: Remote = "",
    aet: Calling = "",
    home: Home = None,
) -> None:
    """Begin a step (N-CREATE); prints its SOPInstanceUID."""
    from pacs_core.cli import network, steps

    to = network.target(home, peer, aet)
    steps.create(to, patient_id=patient_id, name=name, accession=accession, study=study, step_id=step, station=station, modality=modality)


@mpps.command("set")
def mpps_set(
    uid: Annotated[str, typer.Argument(help="The step's SOPInstanceUID.")],
    discontinued: Annotated[bool, typer.Option("--discontinued", help="It was given up.")] = False,
    series: Annotated[list[str], typer.Option(help="A SeriesInstanceUID that it led to. Repeatable.")] = [],  # noqa: B006  # Typer copies it
    protocol: Annotated[str, typer.Option(help="ProtocolName of the series.")] = "UNKNOWN",
    peer: Remote = "",
    aet: Calling = "",
    home: Home = None,
) -> None:
    """End a step (N-SET): COMPLETED, or DISCONTINUED."""
    from pacs_core.cli import network, steps
    from pacs_core.workflow.performed_step import StepStatus

    status = StepStatus.DISCONTINUED if discontinued else StepStatus.COMPLETED
    steps.finish(network.target(home, peer, aet), uid, status=status, series=series, protocol=protocol)


@mpps.command("get")
def mpps_get(
    uid: Annotated[str, typer.Argument(help="The step's SOPInstanceUID.")], peer: Remote = "", aet: Calling = "", home: Home = None
) -> None:
    """Show a step (N-GET), as JSON."""
    from pacs_core.cli import network, steps

    steps.get(network.target(home, peer, aet), uid)


@holds.command("add")
def hold_add(
    study: Annotated[str, typer.Argument(help="The StudyInstanceUID.")],
    reason: Annotated[str, typer.Option(help="Why; whoever looks later wants to know.")],
    until: Annotated[datetime | None, typer.Option(help="When the hold ends. Default: never.", show_default=False)] = None,
    home: Home = None,
) -> None:
    """Keep a study from being removed, whatever the rules say, from this moment on."""
    from pacs_core.cli import manage

    manage.hold_add(home, study, reason, until)


@holds.command("list")
def hold_list(format: FormatOption = Format.TABLE, home: Home = None) -> None:  # noqa: A002  # the option's name
    """Show every hold."""
    from pacs_core.cli import manage

    manage.hold_list(home, format)


@holds.command("release")
def hold_release(study: Annotated[str, typer.Argument(help="The StudyInstanceUID.")], home: Home = None) -> None:
    """End a hold."""
    from pacs_core.cli import manage

    manage.hold_release(home, study)


@index.command("rebuild")
def index_rebuild(
    into_existing: Annotated[bool, typer.Option(help="Add what storage holds to an index that is not empty.")] = False,
    yes: Yes = False,
    home: Home = None,
) -> None:
    """Make the index anew from what lies on the tiers. Started again after an interruption, it continues."""
    from pacs_core.cli import recovery

    recovery.rebuild(home, into_existing=into_existing, yes=yes)


@index.command("backup")
def index_backup(
    destination: Destination = "",
    keep: Annotated[int, typer.Option(min=1, max=1000, help="How many backups stay; older ones are removed.")] = 14,
    home: Home = None,
) -> None:
    """Back up the index and the operational tables, as of this moment. The archive may go on."""
    from pacs_core.cli import recovery

    recovery.backup(home, destination, keep)


@index.command("backups")
def index_backups(destination: Destination = "", format: FormatOption = Format.TABLE, home: Home = None) -> None:  # noqa: A002  # the option's name
    """Show the backups, oldest first."""
    from pacs_core.cli import recovery

    recovery.backups(home, destination, format)


@index.command("restore")
def index_restore(
    name: Annotated[str, typer.Argument(help="The backup's name. Default: the newest.", show_default=False)] = "",
    destination: Destination = "",
    overwrite: Annotated[bool, typer.Option(help="Replace an index that is not empty.")] = False,
    yes: Yes = False,
    home: Home = None,
) -> None:
    """Make the index what a backup says. What arrived or moved since is found by `pacs index rebuild --into-existing`."""
    from pacs_core.cli import recovery

    recovery.restore(home, name, destination, overwrite=overwrite, yes=yes)


@index.command("hash")
def index_hash(format: FormatOption = Format.TABLE, home: Home = None) -> None:  # noqa: A002  # the option's name
    """Show the SHA-256 of each table's sorted rows, without what storage cannot tell: equal before and after a rebuild."""
    from pacs_core.cli import recovery

    recovery.digests(home, format)


@flows.command("list")
def flow_list(format: FormatOption = Format.TABLE, home: Home = None) -> None:  # noqa: A002  # the option's name
    """Show the deployed flows and their schedules."""
    from pacs_core.cli import manage

    manage.flow_list(home, format)


@flows.command("run")
def flow_run(
    name: str,
    parameter: Annotated[list[str], typer.Option("--param", "-P", help="A parameter: name=value (JSON, or plain text). Repeatable.")] = [],  # noqa: B006  # Typer copies it
    wait: Annotated[bool, typer.Option(help="Follow the run to its end.")] = True,
    home: Home = None,
) -> None:
    """Run a flow now. Exit status 1 if it does not complete."""
    from pacs_core.cli import manage

    manage.flow_run(home, name, parameter, wait=wait)


@flows.command("pause")
def flow_pause(name: str, home: Home = None) -> None:
    """Let a flow's schedule rest."""
    from pacs_core.cli import manage

    manage.flow_pause(home, name, paused=True)


@flows.command("resume")
def flow_resume(name: str, home: Home = None) -> None:
    """Let a flow's schedule run again."""
    from pacs_core.cli import manage

    manage.flow_pause(home, name, paused=False)


@flows.command("history")
def flow_history(
    name: Annotated[str | None, typer.Argument(show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=200)] = 20,
    format: FormatOption = Format.TABLE,  # noqa: A002  # the option's name
    home: Home = None,
) -> None:
    """Show past runs, newest first."""
    from pacs_core.cli import manage

    manage.flow_history(home, name, limit, format)


@flows.command("stats")
def flow_stats(
    name: Annotated[str | None, typer.Argument(show_default=False)] = None,
    days: Annotated[int, typer.Option("--days", "-d", min=1, max=3650, help="Runs that were started in the last so many days.")] = 30,
    format: FormatOption = Format.TABLE,  # noqa: A002  # the option's name
    home: Home = None,
) -> None:
    """Show how often a flow ran, how that ended and how long it took."""
    from pacs_core.cli import manage

    manage.flow_stats(home, name, days, format)


@flows.command("schedule")
def flow_schedule(
    name: str,
    cron: Annotated[str | None, typer.Option(help="A cron line, such as '30 2 * * *'.", show_default=False)] = None,
    interval: Annotated[str | None, typer.Option(help="Every so often from now on: 90s, 15m, 6h, 1d.", show_default=False)] = None,
    once: Annotated[str | None, typer.Option(help="One run, at a date and time: 2027-01-31T22:00.", show_default=False)] = None,
    none: Annotated[bool, typer.Option("--none", help="Only when it is asked to.")] = False,
    timezone: Annotated[str, typer.Option(help="For --cron and --once, such as Europe/Berlin.")] = "UTC",
    home: Home = None,
) -> None:
    """Say when a flow runs by itself, in place of every schedule it has. Stays so over restarts."""
    from pacs_core.cli import manage

    manage.flow_schedule(home, name, manage.schedule_of(cron, interval, once, timezone, none=none))


@flows.command("cancel")
def flow_cancel(run: Annotated[str, typer.Argument(help="The id or the name of a run.")], home: Home = None) -> None:
    """End a run early. What it has done stays done; run it again to have the rest done."""
    from pacs_core.cli import manage

    manage.flow_cancel(home, run)


def main() -> None:
    """The entry point of the `pacs` command."""
    # pydicom quotes the values that it finds fault with, and those may name a patient.
    warnings.filterwarnings("ignore", module="pydicom")
    raise SystemExit(exit_status(app))


if __name__ == "__main__":
    main()
