"""Ranking: architectures evaluated within a super-network, one by one or as a tree, and how well it ranks."""

from condnet.ranking.calibration import calibrate
from condnet.ranking.config import EvalConfig, RankConfig
from condnet.ranking.evaluate import (
    EvaluationData,
    Prediction,
    accuracy_and_loss,
    choose_images,
    evaluate_subnet,
    evaluation_data,
)
from condnet.ranking.metrics import ranking_metrics
from condnet.ranking.ranking import Ranking
from condnet.ranking.run import rank
from condnet.ranking.tree import predict

__all__ = [
    'EvalConfig',
    'RankConfig',
    'Ranking',
    'rank',
    'EvaluationData',
    'Prediction',
    'accuracy_and_loss',
    'calibrate',
    'choose_images',
    'evaluate_subnet',
    'evaluation_data',
    'predict',
    'ranking_metrics',
]
