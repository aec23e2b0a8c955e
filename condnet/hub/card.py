"""Cards of models."""

from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from condnet.models.pretrained import is_pretrained_name
from condnet.ranking.metrics import SHOWN, ranked_by
from condnet.ranking.results import describe_training

_PAPER = {  # means of ten seeds, by accuracy: KT over all architectures, top-1, its improvement
    'nb201/full': 'unsplit KT all 0.56, top-1 92.2, improvement 0.7; split at 150 of 250 epochs KT all 0.57, '
    'at 155 improvement 0.8',
    'nb201/no_zero': 'unsplit KT all 0.46, top-1 92.3, improvement 0.61; split at 150 of 250 epochs KT all 0.51, '
    'at 145 top-1 92.8, improvement 0.72',
    'nb201/only_conv': 'unsplit KT all 0.56, top-1 93.6, improvement 0.53; split at 150 of 250 epochs KT all 0.60, '
    'at best top-1 93.7, improvement 0.64',
    'macro/full': 'unsplit KT all 0.73; split at 42 of 50 epochs KT all 0.73, where the top-1 is best',
}


def make_card(name: str, facts: dict[str, Any]) -> ModelCard:
    """The model card, with the figures as metadata as well."""
    ranking, dataset = facts['ranking'], facts['dataset']
    results = [_result(dataset, f'{dataset}, {facts["kind"]}', 'accuracy', 'Accuracy', facts['accuracy'])]
    results += card_results(ranking, dataset)
    data = ModelCardData(
        license='apache-2.0',
        library_name='timm',
        tags=['neural-architecture-search', 'super-network', 'condnet', 'timm'],
        datasets=[dataset],
        model_name=name,
        eval_results=results,
    )
    return ModelCard(f'---\n{data.to_yaml()}\n---\n\n{_card_text(name, facts)}')


def card_results(ranking: dict[str, Any], dataset: str) -> list[EvalResult]:
    """The figures of a ranking as metadata."""
    results = []
    for by in (by for by in ranked_by(ranking) if by != 'params'):
        for metric in ('kendall_tau', 'top1', 'top10', 'improvement1'):
            if ranking[by][metric] is None:  # as the tau of equal predictions
                continue
            label = f'{metric}, ranked by {by}'
            benchmark = f'{ranking["space"]} on {dataset}, {ranking["table"]["file"]}'
            results.append(_result(ranking['space'], benchmark, metric, label, ranking[by][metric]))
    return results


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
        comparison = _COMPARISON.format(r=ranking, table=ranking_table(ranking), ours=ours)
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


RANKED_BY_HEADING = '| ranked by |'


def ranking_table(ranking: dict[str, Any]) -> str:
    """What a ranking reaches (Markdown), one row for each thing that it ranks by."""
    lines = [f'{RANKED_BY_HEADING} {" | ".join(SHOWN.values())} |', '|---' * (1 + len(SHOWN)) + '|']
    for by in ranked_by(ranking):
        values = ['-' if ranking[by][name] is None else f'{ranking[by][name]:.2f}' for name in SHOWN]
        lines.append(f'| {by} | {" | ".join(values)} |')
    return '\n'.join(lines)
