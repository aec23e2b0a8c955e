"""Model folders for the Hugging Face Hub: `python -m condnet.hub prepare` makes one, `publish` uploads it.

What a card says is computed from the saved file, on images that no training has seen.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData

from condnet.benchmarks import BenchmarkTable
from condnet.calibration import calibrate
from condnet.checkpoint import load_model, save_model, write_file
from condnet.commands import run
from condnet.data import Images, holds_images, load_images
from condnet.errors import CondnetError
from condnet.glyphs import render_glyphs
from condnet.metrics import RANKED_BY
from condnet.models import Supernet
from condnet.models.pretrained import CARD_NAME, CONFIG_NAME, WEIGHTS_NAME, check_folder, is_pretrained_name
from condnet.plugins import add_import_flag, import_plugins
from condnet.ranking import Prediction, accuracy_and_loss, autocast
from condnet.results import describe_training, read_predictions, read_summary
from condnet.validate import (
    add_evaluation_flags,
    check_evaluation_flags,
    find_table,
    load_evaluation_images,
    load_supernet,
    prepare_data,
    provenance,
)

_logger = logging.getLogger('hub')
_PAPER = {  # means of ten seeds, by accuracy: KT over all architectures, top-1, its improvement
    'nb201/full': 'unsplit KT all 0.56, top-1 92.2, improvement 0.7; split at 150 of 250 epochs KT all 0.57, '
    'at 155 improvement 0.8',
    'nb201/no_zero': 'unsplit KT all 0.46, top-1 92.3, improvement 0.61; split at 150 of 250 epochs KT all 0.51, '
    'at 145 top-1 92.8, improvement 0.72',
    'nb201/only_conv': 'unsplit KT all 0.56, top-1 93.6, improvement 0.53; split at 150 of 250 epochs KT all 0.60, '
    'at best top-1 93.7, improvement 0.64',
    'macro/full': 'unsplit KT all 0.73; split at 42 of 50 epochs KT all 0.73, where the top-1 is best',
}


def prepare(args: argparse.Namespace) -> dict[str, Any]:
    """Write a folder with the best found sub-network active and calibrated, and a card; return what the card says.

    Raises:
        CondnetError: If results and checkpoint do not fit together.
    """
    check_evaluation_flags(args)
    folder, results = Path(args.folder), Path(args.results)
    predictions, summary = read_predictions(results), read_summary(results.with_suffix('.json'))
    model = load_supernet(args)
    evaluation = provenance(model, args)
    for key in ('model', 'space', 'split', 'training', 'ema', 'checkpoint_sha256', 'calibration'):
        if summary.get(key) != evaluation[key]:
            raise CondnetError(f'{results} ranks with {key} {summary.get(key)!r}, {args.checkpoint} with these flags '
                               f'has {evaluation[key]!r}')  # fmt: skip
    calibration, validation, dataset = load_evaluation_images(model, args)
    table = find_table(model, dataset, args)
    best = max(predictions, key=lambda prediction: (prediction.accuracy, -prediction.loss))
    save_calibrated(model, best, calibration, validation, folder, args)
    test, kind = find_test_images(validation, args)
    facts = {
        **evaluate_saved(folder, test, args),
        'kind': kind,
        'arch': model.space.format(model.space.parse(best.index)),
        'index': best.index,
        'dataset': dataset,
        'truth': true_accuracy(table, best.index),
        'evaluation': evaluation,
        'ranking': summary,
    }
    write_file(folder / CARD_NAME, str(make_card(folder.name, facts)).encode())
    _logger.info(f'{folder}: sub-network {facts["arch"]}, accuracy {facts["accuracy"]:.2f}')
    return facts


def save_calibrated(
    model: Supernet,
    best: Prediction,
    calibration: Images,
    validation: Images,
    folder: Path,
    args: argparse.Namespace,
) -> None:
    """Save a super-network with a sub-network active, and its BatchNorm statistics as the stored weights give them."""
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()
    data = prepare_data(model, calibration, validation, args)
    model.set_active_subnet(best.index)
    with autocast(data):
        calibrate(model, data.calibration, momentum=data.momentum)
    save_model(model.eval(), folder, args.training, fingerprint=args.fingerprint)


def find_test_images(validation: Images, args: argparse.Namespace) -> tuple[Images, str]:
    """Images for the card: the data set's test images if they are there, or else the withheld ones.

    The active sub-network is the best of many on the withheld images, which therefore flatter it.

    Returns:
        The images, and what to call them.

    Raises:
        CondnetError: If the test images are damaged, or of other classes.
    """
    if args.dataset == 'glyphs':
        return render_glyphs(train=False), 'test images'
    if args.dataset is None and holds_images(args.data_dir, train=False):
        return load_images(args.data_dir, train=False), 'test images'
    return validation, 'withheld images'


def evaluate_saved(folder: Path, images: Images, args: argparse.Namespace) -> dict[str, Any]:
    """Accuracy and loss of the active sub-network of a folder, freshly loaded."""
    loaded = argparse.Namespace(**{**vars(args), 'checkpoint': str(folder), 'use_ema': False})
    model = load_supernet(loaded).eval()
    data = prepare_data(model, images.select(images.targets.new_zeros(1)), images, loaded)
    accuracy, loss = accuracy_and_loss(model, data)
    return {'accuracy': accuracy, 'loss': loss, 'num_images': len(images)}


def true_accuracy(table: BenchmarkTable | None, index: int) -> float | None:
    """What the benchmark says of an architecture, if it says something."""
    return None if table is None or index not in table.indices else float(table.select([index]).accuracy[0])


def make_card(name: str, facts: dict[str, Any]) -> ModelCard:
    """The model card, with the figures as metadata as well."""
    ranking, dataset = facts['ranking'], facts['dataset']
    results = [_result(dataset, f'{dataset}, {facts["kind"]}', 'accuracy', 'Accuracy', facts['accuracy'])]
    for by in ('accuracy', 'loss', 'flops'):
        for metric in ('kendall_tau', 'top1', 'top10', 'improvement1') if by in ranking else ():
            if ranking[by][metric] is None:  # as the tau of equal predictions
                continue
            label = f'{metric}, ranked by {by}'
            benchmark = f'{ranking["space"]} on {dataset}, {ranking["table"]["file"]}'
            results.append(_result(ranking['space'], benchmark, metric, label, ranking[by][metric]))
    data = ModelCardData(
        license='apache-2.0',
        library_name='timm',
        tags=['neural-architecture-search', 'super-network', 'condnet', 'timm'],
        datasets=[dataset],
        model_name=name,
        eval_results=results,
    )
    return ModelCard(f'---\n{data.to_yaml()}\n---\n\n{_card_text(name, facts)}')


def _result(dataset: str, dataset_name: str, metric: str, label: str, value: float) -> EvalResult:
    return EvalResult(
        task_type='image-classification',
        dataset_type=dataset,
        dataset_name=dataset_name,
        metric_type=metric,
        metric_name=label,
        metric_value=value,
    )


def _card_text(name: str, facts: dict[str, Any]) -> str:
    ranking, evaluation = facts['ranking'], facts['evaluation']
    training = evaluation['training']
    trained = describe_training(training)
    if training:
        trained += ',\nbatch {batch_size}, learning rate {lr}, weight decay {weight_decay}'.format(**training)
        trained += f', on {training["hardware"]}' if 'hardware' in training else ''
    if 'accuracy' not in ranking:
        comparison = 'There is no benchmark to compare the predictions with.'
    else:
        paper = _PAPER.get(ranking['space']) if facts['dataset'] == 'cifar10' else None
        ours = _GLYPHS_TABLE if facts['dataset'] == 'glyphs' else ''
        comparison = _COMPARISON.format(r=ranking, table=_ranking_table(ranking), ours=ours)
        comparison += f'\n\nThe paper, means of ten seeds, by accuracy:\n{paper}.' if paper else ''
    return _CARD.format(
        name=name,
        r=ranking,
        e=evaluation,
        f=facts,
        trained=trained,
        conditional='with' if ranking['split'] else 'without',
        comparison=comparison,
        truth='' if facts['truth'] is None else _TRUTH.format(f=facts),
        augmented=' (augmented as in training)' if ranking['calibration']['augmented'] else '',
        drawn=ranking['architectures'].rpartition(', ')[2],
        loaded=name if is_pretrained_name(name) else f'hf-hub:ORGANIZATION/{name}',
    )


_CARD = """# {name}

A one-shot NAS super-network of the search space {r[space]}, {conditional} conditional weights
([paper](https://arxiv.org/abs/2104.11522)), trained with condnet on {f[dataset]}: {trained}.
It predicts the accuracy of any architecture of the space without training that architecture.

## How it ranks

{r[num_archs]} architectures, {drawn}, each with its BatchNorm statistics estimated anew on
{r[calibration][batches]} batches of {r[calibration][batch_size]} training images{augmented}, evaluated on
{r[eval_images]} withheld images. Run on {r[hardware]}, {r[amp_dtype]}, torch {r[versions][torch]}.

{comparison}

## The active sub-network

`{f[arch]}` (index {f[index]}), of the above the best by predicted accuracy:
{f[accuracy]:.2f} % of {f[num_images]} {f[kind]}.{truth}
Computed from the saved file on {e[hardware]}, {e[amp_dtype]}, torch {e[versions][torch]}, batches of
{e[eval_batch_size]}; BatchNorm statistics from {e[calibration][batches]} batches of {e[calibration][batch_size]}
training images, which `condnet.ranking.choose_images` chooses{augmented}.
They fit this sub-network only: after choosing another one, call `condnet.calibrate(m, images)`.

```python
import timm, condnet

m = timm.create_model('{loaded}', pretrained=True).eval()  # or 'local-dir:FOLDER'
```
"""
_TRUTH = """
The table has a test accuracy of {f[truth]:.2f} % for it, trained alone by the protocol of the benchmark."""
_COMPARISON = """Compared with the true accuracies in `{r[table][file]}` (mean {r[truth_mean]:.2f}, best
{r[truth_max]:.2f}); parameters and FLOPs are the trivial baselines.{ours}

{table}"""

_GLYPHS_TABLE = """
That table is condnet's own: each architecture was trained alone three times, for 400 steps of batch 32."""


def _ranking_table(ranking: dict[str, Any]) -> str:
    lines = ['| ranked by | KT all | KT 50 | top-1 | top-5 | top-10 | improvement |', '|---|---|---|---|---|---|---|']
    names = ('kendall_tau', 'kendall_tau_50', 'top1', 'top5', 'top10', 'improvement1')
    for by in (by for by in RANKED_BY if by in ranking):
        values = ['-' if ranking[by][name] is None else f'{ranking[by][name]:.2f}' for name in names]
        lines.append(f'| {by} | {" | ".join(values)} |')
    return '\n'.join(lines)


def publish(folder: str | Path, repo: str, private: bool = False) -> str:
    """Upload a model folder: weights, configuration and card, and nothing else that may lie there.

    Args:
        folder: As `prepare` wrote it.
        repo: `organization/name`; it is created if it does not exist.
        private: Whether a new one is private.

    Returns:
        Address of the commit.

    Raises:
        CondnetError: If the folder is incomplete or damaged, or the Hub refuses it. Nothing is uploaded then.
    """
    folder = Path(folder)
    check_folder(folder)
    load_model(folder)  # what does not load is not published
    if not (folder / CARD_NAME).is_file():
        raise CondnetError(f'{folder} has no card {CARD_NAME}; make it with python -m condnet.hub prepare')
    api = HfApi(library_name='condnet')
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo,
            folder_path=folder,
            allow_patterns=[WEIGHTS_NAME, CONFIG_NAME, CARD_NAME],
            commit_message=f'{folder.name}',
        )
    except Exception as error:  # the Hub's client lets through what its HTTP library raises
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise CondnetError(f'cannot publish {folder} as {repo}: {reason}') from error
    return str(commit.commit_url)


def make_parser() -> argparse.ArgumentParser:
    """Flags of the commands."""
    parser = argparse.ArgumentParser('condnet.hub', description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest='command', required=True)
    sub = commands.add_parser('prepare', help='make a folder', allow_abbrev=False)
    sub.add_argument('checkpoint', help='training checkpoint, or model folder')
    sub.add_argument('folder', help='folder to write, named as the model with its tag')
    sub.add_argument('--results', required=True, help='CSV of its ranking by condnet-validate, the JSON beside it')
    sub.add_argument('--model', help='refuse a checkpoint of another model')
    add_evaluation_flags(sub)
    add_import_flag(sub)
    sub = commands.add_parser('publish', help='upload a folder; log in with `hf auth login` before', allow_abbrev=False)
    sub.add_argument('folder', help='folder that prepare wrote')
    sub.add_argument('repo', help='organization/name')
    sub.add_argument('--private', action='store_true', help='of a new repository')
    add_import_flag(sub)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Prepare or publish; returns the exit status."""
    args = make_parser().parse_args(argv)

    def command() -> None:
        import_plugins(args)
        if args.command == 'prepare':
            prepare(args)
        else:
            print(publish(args.folder, args.repo, args.private))

    return run('condnet.hub', command)


if __name__ == '__main__':
    sys.exit(main())
