"""Full rankings: ranks and metrics against torchmetrics and plain loops, and runs on small made sets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import retrieval

from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.run.build import build_data, infer_shapes
from lightning_modules.run.preflight import check_parts
from lightning_modules.zoo.model.matrix_factorization import BPRMatrixFactorization
from lightning_modules.zoo.task.full_ranking import RankingQuery, item_ranks
from lightning_modules.zoo.task.ranking import BPRLoss, NextItem, Ranking
from lightning_modules.zoo.task.ranking_metrics import ranking_metrics

NAMES = ("ndcg", "hit_rate", "mrr", "recall", "precision")
USERS, FILMS = 24, 40


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ratings of two kinds of users, each of whom likes one half of the films; user 0 has one."""
    folder, draws = tmp_path_factory.mktemp("data"), np.random.RandomState(0)
    (folder / "ml-100k").mkdir()
    rows = [(1, 1, 5, 0)]
    for user in range(1, USERS):
        liked = draws.permutation(FILMS // 2)[:12] + (user % 2) * FILMS // 2
        rows += [(user + 1, film + 1, 5, int(t)) for film, t in zip(liked, draws.permutation(10_000), strict=False)]
    rows += [(USERS, film + 1, 1, film) for film in range(FILMS // 2)]
    (folder / "ml-100k" / "u.data").write_text("\n".join("\t".join(map(str, row)) for row in dict.fromkeys(rows)))
    return folder


def settings(root: Path, model: str, *more: str) -> tuple[str, ...]:
    name = "movielens_sequence" if model == "item_sequence" else "movielens_implicit"
    task = "next_item" if model == "item_sequence" else "ranking"
    return (f"data={name}", f"data.root={root}", f"model={model}", f"task={task}", "data.batch_size=32", "optimizer=adam",
            "data.min_rating=2", *more)  # fmt: skip


def scored(seed: int = 0, users: int = 7, items: int = 30) -> tuple[RankingQuery, Tensor, Tensor]:
    """Random scores, what is known, and what is relevant of the rest; each user has some of it."""
    draws = torch.Generator().manual_seed(seed)
    scores, known = torch.randn(users, items, generator=draws), torch.rand(users, items, generator=draws) < 0.3
    relevant = (torch.rand(users, items, generator=draws) < 0.2) & ~known
    relevant[:, 0], known[:, 0] = True, False
    rows, found = relevant.nonzero().unbind(1)
    return RankingQuery(scores, torch.arange(users) + 5, rows, found), known, relevant


def test_an_item_that_is_known_too_has_a_rank_from_one() -> None:
    """A data set of the user's own may hold out an item that the user has met before."""
    query = RankingQuery(torch.tensor([[0.9, 0.5, 0.1]]), torch.zeros(1).long(), torch.zeros(3).long(), torch.arange(3))
    candidates = torch.tensor([[False, True, False]])
    ranks = item_ranks(query, query.scores[0], candidates)
    assert ranks.tolist() == [1, 1, 2], "against item 1 alone, and the item itself"
    metrics = ranking_metrics(NAMES, 1, sampled=False)
    metrics.update(ranks[:, None].float(), torch.tensor([[0, 0], [1, 1], [2, 2]]))
    assert metrics.compute()["mrr"].item() == pytest.approx(2.5 / 3)


@pytest.mark.parametrize("top_k", [1, 5, 10])
def test_the_metrics_are_those_of_torchmetrics_over_all_candidates(top_k: int) -> None:
    query, known, relevant = scored()
    ranks = item_ranks(query, query.scores[query.rows, query.items], ~known)
    ours = ranking_metrics(NAMES, top_k, sampled=False)
    ours.update(ranks[:, None].float(), torch.stack([query.users[query.rows], query.items], 1))
    user, item = (~known).nonzero().unbind(1)
    theirs = {
        f"ndcg_at_{top_k}": retrieval.RetrievalNormalizedDCG(top_k=top_k),
        f"hit_rate_at_{top_k}": retrieval.RetrievalHitRate(top_k=top_k),
        "mrr": retrieval.RetrievalMRR(),
        f"recall_at_{top_k}": retrieval.RetrievalRecall(top_k=top_k),
        f"precision_at_{top_k}": retrieval.RetrievalPrecision(top_k=top_k),
    }
    found = ours.compute()
    assert found.keys() == theirs.keys()
    chance = query.scores.sigmoid()  # theirs take scores below 0 for no answer at all
    for name, metric in theirs.items():
        wanted = float(metric(chance[user, item], relevant[user, item], user))
        assert float(found[name]) == pytest.approx(wanted, abs=1e-5), name


def test_equal_scores_and_scores_that_are_no_numbers_gain_nothing() -> None:
    known = torch.tensor([[True, False, False, False]])
    query = RankingQuery(torch.zeros(1, 4), torch.zeros(1).long(), torch.zeros(2).long(), torch.tensor([1, 3]))
    assert item_ranks(query, torch.zeros(2), ~known).tolist() == [3, 3]
    nan = torch.full((1, 4), torch.nan)
    assert item_ranks(query._replace(scores=nan), nan[0, :2], ~known).tolist() == [3, 3]


def test_the_order_of_samples_is_of_no_meaning_and_each_user_counts_once() -> None:
    ranks, pairs = torch.tensor([[1.0], [2.0], [50.0]]), torch.tensor([[4, 0], [4, 1], [9, 2]])
    values = []
    for order in ([0, 1, 2], [2, 0, 1]):
        metrics = ranking_metrics(NAMES, 10, sampled=False)
        metrics.update(ranks[order], pairs[order])
        values.append({name: round(float(value), 6) for name, value in metrics.compute().items()})
    assert values[0] == values[1]
    assert values[0]["ndcg_at_10"] == 0.5 and values[0]["mrr"] == pytest.approx((1 + 1 / 50) / 2)


def test_the_loss_is_minus_the_log_of_how_probably_the_positive_stands_before() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    wanted = -torch.log(torch.sigmoid(torch.tensor([1.0, 2.0, 0.0, -3.0]))).mean()
    assert torch.allclose(BPRLoss()(scores, torch.zeros(2, 3)), wanted)


def test_a_step_on_one_triple_is_that_of_the_published_rule() -> None:
    torch.manual_seed(0)
    model = BPRMatrixFactorization([2], num_users=2, num_items=3, factors=4, bound=1.0)
    task = Ranking(model, BPRLoss(), decay=0.01)
    u, i, j = (
        model.user_factors.weight[1].clone(),
        model.item_factors.weight[2].clone(),
        model.item_factors.weight[0].clone(),
    )
    batch = {
        "x": torch.tensor([[1, 2]]),
        "y": torch.ones(1),
        "index": torch.arange(1),
        "negatives": torch.tensor([[0]]),
    }
    task.training_loss(batch, 0).backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    z = torch.sigmoid(-(u @ i - u @ j))
    assert torch.allclose(model.user_factors.weight[1], u + 0.1 * (z * (i - j) - 0.01 * u))
    assert torch.allclose(model.item_factors.weight[2], i + 0.1 * (z * u - 0.01 * i))
    assert torch.allclose(model.item_factors.weight[0], j + 0.1 * (-z * u - 0.01 * j))
    assert torch.allclose(model.item_bias.weight[:, 0], torch.stack([-0.1 * z, torch.zeros(()), 0.1 * z]))


@pytest.mark.parametrize("model", ["bpr", "neumf", "lightgcn", "item_sequence"])
def test_every_network_learns_which_half_of_the_films_a_user_likes(
    fit: Callable[..., Any], root: Path, model: str
) -> None:
    kind = ("model.kind=mean",) if model == "item_sequence" else ()
    run = fit(*settings(root, model, "trainer.max_epochs=20", "optimizer.lr=0.02", *kind), small=False)
    assert run.metrics["test/ndcg_at_10"] > 0.28, "0.12 is chance over all films"
    assert run.metrics["val/hit_rate_at_10"] > 0.5
    assert 0 < run.metrics["val/loss"] < 4


@pytest.mark.parametrize("model", ["bpr", "item_sequence"])
def test_a_users_rank_is_that_of_a_plain_loop(fit: Callable[..., Any], root: Path, model: str) -> None:
    run = fit(*settings(root, model, "trainer.max_epochs=3"), small=False)
    data, task = run.data, run.task.eval()
    for part in ("val", "test"):
        x, y = data.arrays.test if part == "test" else (data.arrays.x, data.arrays.y)
        gains = []
        for row in data.splits[part].tolist():
            user, item = x[row].tolist() if model == "bpr" else y[row].long().flip(0).tolist()
            with torch.no_grad():
                scores = task.model.item_scores(x[row, :1]) if model == "bpr" else task(x[row : row + 1])
            others = [i for i in range(FILMS) if not data.known(part)[user, i]]
            rank = sum(bool(scores[0, i] >= scores[0, item]) for i in others if i < scores.shape[1])
            gains.append(1 / np.log2(rank + 1) if rank <= 10 else 0.0)
        assert run.metrics[f"{part}/ndcg_at_10"] == pytest.approx(np.mean(gains), abs=1e-5)


def test_both_ways_around_the_batches_give_equal_weights(fit: Callable[..., Any], root: Path) -> None:
    case = settings(root, "bpr", "augmentation=interactions_negatives")
    quick, ordinary = fit(*case, small=False), fit(*case, "steps_per_call=1", small=False)
    assert quick.task.steps_per_call > 1
    for name, value in quick.task.state_dict().items():
        assert torch.equal(value, ordinary.task.state_dict()[name]), name
    assert quick.metrics == ordinary.metrics


def test_sampled_metrics_are_there_only_if_asked_for_and_under_names_of_their_own(
    fit: Callable[..., Any], root: Path
) -> None:
    plain = fit(*settings(root, "bpr"), small=False)
    query = fit(*settings(root, "bpr", "task.sampled_negatives=5"), small=False)
    assert not [name for name in plain.metrics if "sampled" in name]
    assert query.metrics["test/sampled_hit_rate_at_10"] == 1.0, "one of six is always among ten"
    assert query.metrics["test/sampled_mrr"] > query.metrics["test/mrr"]
    both = plain.metrics.keys() & query.metrics.keys()
    assert {name: query.metrics[name] for name in both} == {name: plain.metrics[name] for name in both}


def test_the_size_of_a_batch_changes_no_measurement(fit: Callable[..., Any], root: Path) -> None:
    case = settings(root, "lightgcn", "task.sampled_negatives=5", "data.split=random")
    one, other = (fit(*case, f"data.eval_batch_size={size}", small=False).metrics for size in (3, 500))
    assert one == pytest.approx({name: other[name] for name in one}, abs=1e-5)


@pytest.mark.parametrize("model", ["bpr", "neumf", "lightgcn", "item_sequence"])
def test_a_run_is_checked_and_its_metrics_are_known_before_training(
    build_run: Callable[..., Any], root: Path, model: str
) -> None:
    words = settings(
        root, model, "task.top_k=5", f"augmentation={'interactions_history' if model == 'item_sequence' else 'none'}"
    )
    cfg = compose_run(words)
    check_config(cfg)
    run = build_run(*words, small=False)
    infer_shapes(cfg, run.data)
    check_parts(cfg, run.task, run.data, [])
    assert cfg.task.monitor.metric == "val/ndcg_at_5" and cfg.task.monitor.metric in run.task.metric_names()


def test_cross_entropy_as_neumf_is_trained(fit: Callable[..., Any], root: Path) -> None:
    words = settings(
        root, "neumf", "task.loss._target_=torch.nn.BCEWithLogitsLoss", "task.negatives=4", "trainer.max_epochs=1"
    )
    loss = fit(*words, small=False).metrics["val/loss"]
    assert loss == pytest.approx(np.log(2), abs=0.2), "it begins near one half for all"


def test_mistakes_name_their_key_before_anything_is_trained(fit: Callable[..., Any], root: Path) -> None:
    model = BPRMatrixFactorization([2], num_users=2, num_items=3)
    for settings_, said in (
        ({"top_k": 0}, r"Ranking\.top_k=0: expected"),
        ({"sampled_negatives": -1}, r"Ranking\.sampled_negatives=-1: expected"),
        ({"negatives": 0}, r"Ranking\.negatives=0: expected"),
        ({"decay": -1.0}, r"Ranking\.decay=-1.0: expected"),
    ):
        with pytest.raises(UserError, match=said):
            Ranking(model, BPRLoss(), **settings_)
    with pytest.raises(UserError, match="try model=bpr"):
        Ranking(nn.Linear(2, 1), BPRLoss())
    with pytest.raises(UserError, match="did you mean 'ndcg'"):
        NextItem(nn.Linear(2, 1), nn.CrossEntropyLoss(), metrics={"val": ["ndgc"]}).build_metrics("val")
    with pytest.raises(UserError, match="ml-100k has none; try data=movielens_implicit"):
        fit("data=movielens", f"data.root={root}", "model=bpr", "task=ranking", small=False)


def test_the_data_fill_in_what_a_model_leaves_open(root: Path) -> None:
    cfg = compose_run(settings(root, "lightgcn"))
    data = build_data(cfg)
    infer_shapes(cfg, data)
    assert (cfg.model.num_users, cfg.model.num_items) == (USERS, len(data.item_ids))
    assert cfg.model.num_interactions == len(data.splits["train"])
