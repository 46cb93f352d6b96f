"""The commands `tracin evaluate lds | noise | audit | deletion | necessary | sanity`: how far to trust scores."""

from __future__ import annotations

from dataclasses import dataclass

import click

from tracin.cli.command import Command, Group
from tracin.cli.evaluation import (
    EvaluationOptions,
    Work,
    checkpoints_option,
    decimals,
    named_scores,
    queries_option,
    scores_option,
)
from tracin.cli.options import POSITIVE, Options, flag, group, option, takes
from tracin.errors import InputError
from tracin.evaluation.audited import find_audited
from tracin.evaluation.deletion import delete, first_ranked, top_of
from tracin.evaluation.graph import drawn
from tracin.evaluation.lds import correlations, subset_outcomes, sums_over_subsets
from tracin.evaluation.noise import find_noise
from tracin.evaluation.sanity import sanity
from tracin.evaluation.statistics import Estimate
from tracin.sets.protocol import Chooser, remove
from tracin.sets.smallest import SetOptions

SCORES = ("accurate", "tracin", "two-rules", "embedding", "random")
DELETED = ("accurate", "tracin", "two-rules", "embedding", "neighbours", "same-relation", "random")
NECESSARY = ("accurate", "tracin", "two-rules", "random")
SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)
SETTINGS = {"max_content_width": 120}


@dataclass(frozen=True, kw_only=True)
class LdsOptions(Options):
    scores: tuple[str, ...] = scores_option(SCORES)
    control: str = option(
        "--control", default="two-rules", show_default=True, help="The score from which differences are taken."
    )
    subsets: int = option(
        "--subsets", type=click.IntRange(min=2), default=40, show_default=True, help="Random subsets trained on."
    )
    share: float = option("--share", type=SHARE, default=0.5, show_default=True, help="Of the triples in a subset.")
    repeats: int = option(
        "--repeats", type=POSITIVE, default=1, show_default=True, help="Models of a subset; from 2 on, a ceiling."
    )
    queries: int | None = queries_option(None, "Test triples, drawn at random.  [default: all]")
    checkpoints: int = checkpoints_option()
    evaluation: EvaluationOptions = group(EvaluationOptions)


@dataclass(frozen=True, kw_only=True)
class NoiseOptions(Options):
    share: float = option("--share", type=SHARE, default=0.05, show_default=True, help="Of the triples made wrong.")
    self_scores: tuple[str, ...] = option(
        "--self-score",
        multiple=True,
        default=("accurate",),
        help="Further self-influences, as for `lds --score`, such as tracin:direction=both.  [default: accurate]",
    )
    at: tuple[int, ...] = option(
        "--at", type=POSITIVE, multiple=True, help="k of the precisions.  [default: the number of wrong triples]"
    )
    repeats: int = option("--repeats", type=POSITIVE, default=1, show_default=True, help="Corruptions, each a model.")
    evaluation: EvaluationOptions = group(EvaluationOptions)


@dataclass(frozen=True, kw_only=True)
class AuditOptions(Options):
    shares: tuple[float, ...] = option(
        "--share",
        type=click.FloatRange(0, 1, max_open=True),
        multiple=True,
        default=(0.05,),
        help="Of the triples made wrong, a model each; 0: none.  [default: 0.05]",
    )
    at: tuple[int, ...] = option(
        "--at", type=POSITIVE, multiple=True, default=(100,), help="k of the precisions.  [default: 100]"
    )
    evaluation: EvaluationOptions = group(EvaluationOptions)


@dataclass(frozen=True, kw_only=True)
class DeletionOptions(Options):
    scores: tuple[str, ...] = scores_option(DELETED)
    remove: tuple[int, ...] = option(
        "--remove", type=POSITIVE, multiple=True, default=(1, 4, 10), help="Triples left out.  [default: 1, 4, 10]"
    )
    queries: int = queries_option(100, "Predictions: test triples that are ranked first, drawn at random.")
    together: bool = flag(
        "--together", help="Leave out the triples of all predictions at once, one model for all, as Kelpie does."
    )
    repeats: int = option("--repeats", type=POSITIVE, default=1, show_default=True, help="Models of each deletion.")
    checkpoints: int = checkpoints_option()
    evaluation: EvaluationOptions = group(EvaluationOptions)


@dataclass(frozen=True, kw_only=True)
class NecessaryOptions(Options):
    scores: tuple[str, ...] = scores_option(NECESSARY)
    searched: tuple[str, ...] = option(
        "--searched",
        multiple=True,
        default=("accurate",),
        help="Scores whose smallest sets are searched by post-training as well.  [default: accurate]",
    )
    most: tuple[int, ...] = option(
        "--max-size", type=POSITIVE, multiple=True, default=(1, 4), help="Facts of a set.  [default: 1, 4]"
    )
    candidates: int = option(
        "--candidates", type=POSITIVE, default=20, show_default=True, help="Facts of which sets are made."
    )
    tries: int = option("--tries", type=POSITIVE, default=30, show_default=True, help="Sets tried of each size.")
    copies: int = option("--copies", type=POSITIVE, default=3, show_default=True, help="Copies that are post-trained.")
    queries: int = queries_option(100, "Predictions: test triples that are ranked first, drawn at random.")
    repeats: int = option("--repeats", type=POSITIVE, default=1, show_default=True, help="Models of each removal.")
    checkpoints: int = checkpoints_option()
    evaluation: EvaluationOptions = group(EvaluationOptions)


@dataclass(frozen=True, kw_only=True)
class SanityOptions(Options):
    scores: tuple[str, ...] = scores_option(SCORES)
    queries: int | None = queries_option(None, "Test triples, drawn at random.  [default: all]")
    checkpoints: int = checkpoints_option()
    evaluation: EvaluationOptions = group(EvaluationOptions)


@click.group("evaluate", cls=Group, context_settings=SETTINGS)
def evaluate() -> None:
    """How far can scores be trusted? Models are trained anew, and say so.

    All is seeded. What each trained model said is kept in a folder, so that a run that was stopped goes on (--resume).
    """


@evaluate.command("lds", cls=Command, context_settings=SETTINGS)
@takes(LdsOptions)
def lds(options: LdsOptions) -> None:
    """Do a score's sums over random halves of the training triples foretell what models trained on them say?

    Linear datamodelling score: Spearman's correlation over subsets, of the sum of scores of a subset's triples with the
    outcome of a model trained on it, margin or -ce of the filtered tail; its mean over test triples.
    """
    scores = named_scores(options.scores)
    if options.control not in scores:
        raise InputError(f"--control {options.control} is none of the scores {', '.join(scores)}")
    work = Work.begun("lds", options, options.evaluation)
    questions = work.questions()
    chosen = drawn(len(questions), options.queries, work.seed)
    model = work.model(options.checkpoints)
    for score in scores.values():
        score.of(work.graph, model, questions[:1])  # a wrong setting shows before the work
    members, by_outcome = subset_outcomes(
        work.graph,
        work.recipe,
        work.runs,
        questions,
        subsets=options.subsets,
        repeats=options.repeats,
        share=options.share,
        seed=work.seed,
        processes=options.evaluation.processes,
        progress=work.progress,
    )
    sums = {}
    for name, score in scores.items():
        work.say(f"scoring by {name}")
        sums[name] = sums_over_subsets(work.graph, model, score, questions[chosen], members)
    bootstrap = options.evaluation.bootstrap
    found = {
        name: correlations(sums, outcome[:, chosen], control=options.control, bootstrap=bootstrap, seed=work.seed)
        for name, outcome in by_outcome.items()
    }
    for name, some in found.items():
        rows = {score: [str(one), str(some.beyond.get(score, ""))] for score, one in some.scores.items()}
        work.show([f"LDS, {name}", "", f"minus {options.control}"], rows)
    ceilings = [f"{name} {some.ceiling:.3f}" for name, some in found.items() if some.ceiling is not None]
    if ceilings:
        work.say(f"ceiling, by the agreement of models of the same subset: {', '.join(ceilings)}")
    panels = {f"LDS, {name}": some.scores for name, some in found.items()}
    work.write({"queries": len(chosen), "outcomes": found}, panels)


@evaluate.command("noise", cls=Command, context_settings=SETTINGS)
@takes(NoiseOptions)
def noise(options: NoiseOptions) -> None:
    """Which score finds wrong triples that were put among the training triples?

    AUC and precision of the losses, of self-influence, and of controls; in the precisions equal scores share places.
    """
    extra = {}
    for text, score in named_scores(options.self_scores).items():
        (term,) = score.terms if len(score.terms) == 1 else (None,)
        if term is None or not term.is_tracin:
            raise InputError(f"--self-score {text}: expected tracin or accurate, which score a triple by itself")
        extra[f"self-influence, {text}"] = term.arguments
    work = Work.begun("noise", options, options.evaluation)
    found = find_noise(
        work.graph,
        work.recipe,
        work.runs,
        share=options.share,
        repeats=options.repeats,
        at=options.at,
        extra=extra,
        bootstrap=options.evaluation.bootstrap,
        seed=work.seed,
        progress=work.progress,
        tell=work.say,
    )
    ks = list(next(iter(found.values())).precision)
    rows = {name: [str(one.auc), *(f"{one.precision[k]:.3f}" for k in ks)] for name, one in found.items()}
    work.show(["score", "AUC", *(f"precision at {k}" for k in ks)], rows)
    work.write(found, {"AUC": {name: one.auc for name, one in found.items()}})


@evaluate.command("audit", cls=Command, context_settings=SETTINGS)
@takes(AuditOptions)
def audit(options: AuditOptions) -> None:
    """Does `tracin audit` find wrong triples that were put among the training triples, and how many there are?

    AUC and precision of what it goes by, the loss set against what is usual for the relation; of the loss alone, and of
    self-influence; and its estimate, beside the true number.
    """
    work = Work.begun("audit", options, options.evaluation)
    found = find_audited(
        work.graph,
        work.recipe,
        work.runs,
        shares=options.shares,
        at=options.at,
        bootstrap=options.evaluation.bootstrap,
        seed=work.seed,
        progress=work.progress,
        tell=work.say,
    )
    rows = {
        f"{share:.0%}, {name}": [
            *(f"{one.scores[name].precision[k]:.3f}" if name in one.scores else "" for k in options.at),
            str(one.scores[name].auc) if name in one.scores else "",
            *((f"{one.wrong:,}", f"{one.estimated:,}", f"{one.mrr:.3f}") if name == "audit" else ("", "", "")),
        ]
        for share, one in found.items()
        for name in (one.scores or ("audit",))
    }
    columns = ["wrong triples, score", *(f"precision at {k}" for k in options.at), "AUC", "wrong", "estimated", "MRR"]
    work.show(columns, rows)
    panels = {
        f"AUC, {share:.0%}": {name: each.auc for name, each in one.scores.items()}
        for share, one in found.items()
        if one.scores
    }
    estimates = {f"{share:.0%}": Estimate(*[float(one.estimated)] * 3) for share, one in found.items()}
    work.write(found, panels or {"estimated wrong": estimates})


@evaluate.command("deletion", cls=Command, context_settings=SETTINGS)
@takes(DeletionOptions)
def deletion(options: DeletionOptions) -> None:
    """Do predictions fall when the training triples that a score names are left out, and the model is trained anew?

    Changes of margin, -ce, MRR and Hits@1 of predictions that are ranked first, beside those of random triples, random
    neighbours, triples of the same relation, similar embeddings and two rules.
    """
    scores = named_scores(options.scores)
    work = Work.begun("deletion", options, options.evaluation)
    model = work.model(options.checkpoints)
    queries = first_ranked(work.graph, model, options.queries, work.seed)
    ks = sorted(set(options.remove))
    tops = {}
    for name, score in scores.items():
        work.say(f"scoring by {name}")
        tops[name] = top_of(work.graph, model, score, queries, max(ks))
    found = delete(
        work.graph,
        work.recipe,
        work.runs,
        tops,
        queries,
        ks=ks,
        together=options.together,
        repeats=options.repeats,
        seed=work.seed,
        bootstrap=options.evaluation.bootstrap,
        processes=options.evaluation.processes,
        progress=work.progress,
    )
    rows = {
        f"{name}, {k}": [
            f"{one.removed:.1f}",
            str(one.changes["margin"]),
            *(f"{one.changes[change].value:+.3f}" for change in ("-ce", "mrr", "hits@1")),
        ]
        for name, by_k in found.items()
        for k, one in by_k.items()
    }
    work.show(["score, k", "removed", "margin", "-ce", "MRR", "Hits@1"], rows)
    panels = {
        f"margin, top {k} left out": {name: by_k[k].changes["margin"] for name, by_k in found.items()} for k in ks
    }
    work.write({"predictions": len(queries), "scores": found}, panels)


@evaluate.command("necessary", cls=Command, context_settings=SETTINGS)
@takes(NecessaryOptions)
def necessary(options: NecessaryOptions) -> None:
    """Do predictions fall when the few facts of their heads that a score names are left out, of all of them at once?

    Kelpie's protocol. For each prediction the facts of its head that the score puts first, and the smallest set of them
    that makes it fall by post-training, else the nearest; all are removed together, and the model is trained anew.
    """
    scores = named_scores(options.scores)
    for name in options.searched:
        if name not in scores:
            raise InputError(f"--searched {name} is none of the scores {', '.join(scores)}")
    ks = sorted(set(options.most))
    searching = SetOptions(
        max_size=max(ks), candidates=options.candidates, tries=options.tries, copies=options.copies,
        seed=options.evaluation.training.seed,
    )  # fmt: skip
    work = Work.begun("necessary", options, options.evaluation)
    model = work.model(options.checkpoints)
    queries = first_ranked(work.graph, model, options.queries, work.seed)
    chooser = Chooser(work.graph, work.recipe, model, searching, work.runs / "sets", work.progress)
    chosen = {}
    for name, score in scores.items():
        work.say(f"choosing by {name}")
        chosen[name] = chooser.choose(name, score, queries, ks, name in options.searched)
    found = remove(
        work.graph,
        work.recipe,
        work.runs,
        chosen,
        queries,
        repeats=options.repeats,
        seed=work.seed,
        bootstrap=options.evaluation.bootstrap,
        processes=options.evaluation.processes,
        progress=work.progress,
    )
    rows = {
        f"{name}, {way} {k}": [
            f"{one.size:.1f}",
            "" if one.found is None else str(one.found),
            f"{one.removed:.0f}",
            *(str(one.changes[change]) for change in ("mrr", "hits@1")),
        ]
        for name, by_way in found.items()
        for way, by_k in by_way.items()
        for k, one in by_k.items()
    }
    work.show(["score, facts", "size", "found", "removed", "MRR", "Hits@1"], rows)
    panels = {
        f"Hits@1, up to {k} facts": {
            f"{name}, {way}": by_k[k].changes["hits@1"]
            for name, by_way in found.items()
            for way, by_k in by_way.items()
            if k in by_k
        }
        for k in ks
    }
    work.write({"predictions": len(queries), "scores": found}, panels)


@evaluate.command("sanity", cls=Command, context_settings=SETTINGS)
@takes(SanityOptions)
def check_sanity(options: SanityOptions) -> None:
    """Does a score depend on what the model learned, and on the test triple?

    How many distinct training triples the first tens of all test triples use, and what scores of a model with random
    weights have in common with those of the trained one.
    """
    scores = named_scores(options.scores)
    work = Work.begun("sanity", options, options.evaluation)
    questions = work.questions()
    queries = questions[drawn(len(questions), options.queries, work.seed)]
    model = work.model(options.checkpoints)
    found = {}
    for name, score in scores.items():
        work.say(f"scoring by {name}")
        found[name] = sanity(work.graph, model, score, queries)
    rows = {
        name: [str(one.distinct), f"{one.most:.3f}", decimals(one.random_correlation), decimals(one.random_overlap)]
        for name, one in found.items()
    }
    work.show(["score", "distinct", "most used", "correlation, random weights", "overlap, random weights"], rows)
    distinct = {name: Estimate(one.distinct, one.distinct, one.distinct) for name, one in found.items()}
    work.write({"queries": len(queries), "scores": found}, {"distinct triples in first tens": distinct})
