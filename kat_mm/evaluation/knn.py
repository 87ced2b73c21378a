from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Images of which similarities to all others are held at once.
_CHUNK = 1024


@torch.no_grad()
def extract_features(model: nn.Module, loader: Iterable) -> tuple[Tensor, Tensor]:
    """Features of a classifier's images, as its head gets them, and their labels.

    Args:
        model: An ``ImageClassifier`` of mmpretrain.
        loader: Batches of mmpretrain's data samples.

    Returns:
        Unit vectors (N, C), float32, and labels (N,), on the model's device.
    """
    model.eval()
    features, labels = [], []
    for batch in loader:
        data = model.data_preprocessor(batch)
        found = model.extract_feat(data['inputs'], stage='pre_logits')
        found = found[-1] if isinstance(found, tuple | list) else found
        features.append(F.normalize(found.float(), dim=1))
        labels += [sample.gt_label for sample in data['data_samples']]
    return torch.cat(features), torch.cat(labels).to(features[0].device)


def knn_scores(
    features: Tensor,
    labels: Tensor,
    queries: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Scores of classes by weighted nearest neighbours (Wu et al. 2018, section 3.4).

    The k most similar images vote for their classes with exp(cosine / temperature).

    Args:
        features: Unit vectors (N, C) of the images that are known.
        labels: (N,) their classes.
        queries: Unit vectors (M, C).
        num_classes: Classes.
        k: Neighbours, N at most. Default: 20, as in DINO (Caron et al. 2021).
        temperature: Default: 0.07.

    Returns:
        (M, num_classes).
    """
    if not 1 <= k <= len(features):
        raise ValueError(f'knn_scores: k={k} must lie from 1 to {len(features)}, the known images')
    scores = []
    for chunk in queries.split(_CHUNK):
        similar, index = (chunk @ features.T).topk(k, dim=1)
        votes = (similar / temperature).exp()
        scores.append(votes.new_zeros(len(chunk), num_classes).scatter_add(1, labels[index], votes))
    return torch.cat(scores)
