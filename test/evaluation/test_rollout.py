import json

import numpy as np
import pytest

from openvla_ros.evaluation.contact_sheet import Strip, contact_sheet
from openvla_ros.evaluation.episodes import Outcome, nearest_block, run_episode
from openvla_ros.evaluation.rollout import Results, Trial, main, summarize, table


def _outcome(kind='reach', seed=0, success=True, went_to='red'):
    return Outcome(
        kind, seed, f'{kind} the red block', 'red', 2, success, 9, went_to, False, 'done'
    )


def _filled(path):
    results = Results(path)
    for seed in range(10):
        results.add(Trial('bf16', 'reach', seed), _outcome(seed=seed, success=seed < 8))
        results.add(
            Trial('nf4', 'reach', seed),
            _outcome(seed=seed, success=seed < 7, went_to='red' if seed < 9 else 'blue'),
        )
    return results


def test_results_survive_a_stop(tmp_path):
    _filled(tmp_path / 'episodes.jsonl')
    again = Results(tmp_path / 'episodes.jsonl')
    assert len(again.outcomes) == 20
    assert again.outcomes[Trial('bf16', 'reach', 3)] == _outcome(seed=3)


def test_rates_and_the_paired_difference_are_of_the_same_scenes(tmp_path):
    summary = summarize(_filled(tmp_path / 'episodes.jsonl'), ['bf16', 'nf4'], ['reach'])
    assert summary['rates']['bf16']['reach']['success']['value'] == 0.8
    assert summary['rates']['nf4']['reach']['went_to_named']['value'] == 0.9
    assert summary['paired_to_bf16']['nf4']['pairs'] == 10
    assert summary['paired_to_bf16']['nf4']['value'] == pytest.approx(-0.1)
    json.dumps(summary)
    assert '-10.0 points' in table(summary)


def test_a_contact_sheet_has_a_row_per_episode():
    pictures = [np.full((32, 32, 3), 50 * i, np.uint8) for i in range(5)]
    sheet = contact_sheet([Strip(pictures, 'a', True), Strip(pictures[:1], 'b', False)], columns=3)
    assert sheet.size == (3 * 128, 2 * 144)
    assert sheet.getpixel((64, 80)) == (0, 0, 0)
    assert sheet.getpixel((2 * 128 + 64, 80)) == (200, 200, 200)


class ExpertBackend:
    """Says what the scripted expert would do, in place of a network."""

    description, image_size, norm_stats = 'expert', 112, None

    def __init__(self, arm_of, task, profile):
        self._arm_of, self._task, self._profile = arm_of, task, profile

    def predict(self, image, instruction):
        from openvla_ros.action_space.dataset_profile import from_eef_delta
        from openvla_ros.policy.inference import PredictedAction
        from openvla_ros.sim.expert import ScriptedExpert

        delta = ScriptedExpert(self._task).act(self._arm_of())
        return PredictedAction(from_eef_delta(delta, self._profile), None, {})

    def reset(self):
        pass


@pytest.mark.parametrize('kind', ['reach', 'pick'])
def test_a_perfect_policy_does_its_task_through_image_recipe_and_clamp(kind, monkeypatch):
    from openvla_ros.action_space.dataset_profile import load_dataset_profile
    from openvla_ros.evaluation import episodes
    from openvla_ros.policy.policy import Policy
    from openvla_ros.safety.robot_profile import load_robot_profile
    from openvla_ros.sim.tasks import sample_episode

    arms = []
    real = episodes.SimArm
    monkeypatch.setattr(episodes, 'SimArm', lambda scene: arms.append(real(scene)) or arms[-1])
    episode = sample_episode(kind, 0, 'test')
    profile = load_dataset_profile('openvla_ros_demo')
    backend = ExpertBackend(lambda: arms[-1], episode.task, profile)
    outcome = run_episode(Policy(backend, profile), episode, load_robot_profile('sim'))
    assert outcome.success
    assert outcome.went_to == episode.task.colour == nearest_block(arms[-1])


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['--device', 'mps'], "device: got 'mps', which is not supported"),
        (['--cuda-graphs', 'on'], "cuda_graphs: got 'on', but the network runs on cpu"),
    ],
)
def test_a_device_without_what_is_asked_for_is_refused_before_any_scene(
    arguments, said, tmp_path, capsys
):
    with pytest.raises(SystemExit) as ended:
        main([*arguments, '--out', str(tmp_path / 'out')])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
