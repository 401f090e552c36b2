import pytest

from benchmarks.graph.comparison import (
    GraphOutcome,
    compare,
    read_graph,
    read_in_process,
    table,
)
from openvla_ros.evaluation.episodes import Outcome


def outcome(kind, seed, success, went_to='red'):
    return Outcome(kind, seed, 'a sentence', 'red', 2, success, 20, went_to, False, 'time')


def through_graph(kind, seed, success, **changes):
    values = {'seconds': 4.0, 'actions_hz': 5.0, 'camera_to_action_ms': 60.0, 'rejected': 1}
    return GraphOutcome(outcome(kind, seed, success), **{**values, **changes})


def by_key(found):
    return {o.key if isinstance(o, GraphOutcome) else (o.kind, o.seed): o for o in found}


def test_the_difference_is_paired_over_the_scenes_both_tried():
    inside = by_key(outcome('reach', seed, True) for seed in range(4))
    graph = by_key(through_graph('reach', seed, seed > 0) for seed in range(3))
    found = compare(graph, inside)
    row = found['by_kind']['all']
    assert found['pairs'] == 3  # seed 3 was tried in process only
    assert row['in_process']['success']['value'] == 1.0
    assert row['graph']['success']['value'] == pytest.approx(2 / 3)
    assert row['graph_minus_in_process']['value'] == pytest.approx(-1 / 3)
    assert found['only_in_process_succeeded'] == ['reach 0']
    assert found['only_graph_succeeded'] == []
    assert found['rejected_actions'] == 3


def test_kinds_are_not_mixed():
    inside = by_key([outcome('reach', 0, True), outcome('pick', 0, False)])
    graph = by_key([through_graph('reach', 0, True), through_graph('pick', 0, True)])
    found = compare(graph, inside)
    assert found['by_kind']['reach']['graph_minus_in_process']['value'] == 0.0
    assert found['by_kind']['pick']['graph_minus_in_process']['value'] == 1.0
    assert [line.split('|')[1].strip() for line in table(found).splitlines()[2:]] == [
        *('pick', 'reach', 'all'),
    ]


def test_nothing_in_common_is_refused():
    with pytest.raises(ValueError, match='no scene was tried both ways'):
        compare({}, by_key([outcome('reach', 0, True)]))


def test_outcomes_survive_a_file(tmp_path):
    found = through_graph('push', 7, True)
    (tmp_path / 'graph.jsonl').write_text(found.line() + '\n')
    assert read_graph(tmp_path / 'graph.jsonl') == {('push', 7): found}
    assert read_graph(tmp_path / 'none.jsonl') == {}


def test_other_precisions_of_a_rollout_are_left_out(tmp_path):
    from openvla_ros.evaluation.rollout import Results, Trial

    results = Results(tmp_path / 'episodes.jsonl')
    kept = outcome('pick', 3, True)
    results.add(Trial('bf16', 'pick', 3), kept)
    results.add(Trial('nf4', 'pick', 3), outcome('pick', 3, False))
    assert read_in_process(tmp_path / 'episodes.jsonl', 'bf16') == {('pick', 3): kept}
