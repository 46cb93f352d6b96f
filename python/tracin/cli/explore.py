"""The command `tracin explore`: a local page to look around in a model."""

from __future__ import annotations

import json
import webbrowser
from dataclasses import dataclass, replace
from pathlib import Path

import click

from tracin.cli.command import Command
from tracin.cli.options import FILE, Options, argument, flag, group, json_option, option, takes
from tracin.cli.subject import SubjectOptions, opened_subject, tracin_of
from tracin.explanation.ask import Explainer
from tracin.exploring.pages import Explorer
from tracin.exploring.server import serve
from tracin.streams import say, show_text


@dataclass(frozen=True, kw_only=True)
class ExploreOptions(Options):
    model: Path = argument(type=FILE)
    subject: SubjectOptions = group(SubjectOptions)
    port: int = option(
        "--port", type=click.IntRange(0, 65535), default=0, help="Of this machine.  [default: one that is free]"
    )
    open_browser: bool = flag("--open", help="Open the page in the browser.")
    as_json: bool = json_option("Print the address as JSON.")


@click.command("explore", cls=Command, context_settings={"max_content_width": 120})
@takes(ExploreOptions)
def explore(options: ExploreOptions) -> None:
    """Look around in MODEL with a browser: search an entity, pick a relation, see the model's answers and why.

    The page is for this machine alone, under an address that the command prints; it ends with Ctrl-C.
    """
    subject = opened_subject(options.model, options.subject)
    explainer = Explainer(subject, tracin_of(subject, replace(options.subject, quiet=True)))
    if not options.subject.quiet:
        say("scoring the training triples once, so that clicks need not wait for it ...")
    explainer.prepare()

    def ready(address: str) -> None:
        show_text(json.dumps({"address": address}) if options.as_json else address)
        if options.open_browser:
            webbrowser.open(address)

    serve(Explorer(explainer), options.port, ready)
