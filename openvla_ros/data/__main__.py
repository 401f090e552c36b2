"""Recordings to a data set, and a look at one: ``python -m openvla_ros.data prepare|inspect``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from openvla_ros.action_space.dataset_profile import load_dataset_profile
from openvla_ros.core.strict_config import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 2 where something cannot be used, with a sentence on stderr."""
    arguments = _arguments(argv)
    try:
        return int(arguments.run(arguments))
    except ConfigError as error:
        print(error, file=sys.stderr)
    except ModuleNotFoundError as error:
        print(
            f'{error.name} is not installed; pip install -r requirements/data.txt', file=sys.stderr
        )
    return 2


def _prepare(arguments: argparse.Namespace) -> int:
    from openvla_ros.data.bag_episodes import Choices, episodes_of
    from openvla_ros.data.data_set_writer import DataSetWriter
    from openvla_ros.data.faults import Faults

    profile = load_dataset_profile(arguments.unnorm_key, arguments.dataset_directory)
    choices = Choices(
        image=arguments.image_topic,
        pose=arguments.pose_topic,
        gripper=arguments.gripper_topic,
        twist=arguments.twist_topic,
        instruction_topic=arguments.instruction_topic,
        instruction=arguments.instruction,
        motion=arguments.motion,
        keep_no_ops=arguments.keep_no_ops,
    )
    faults, unusable = Faults(), []
    with DataSetWriter(arguments.out, profile) as writer:
        for path in arguments.bags:
            try:
                episodes = episodes_of(path, profile, choices, faults)
            except ConfigError as error:
                if not arguments.skip_unusable:
                    raise ConfigError(f'{error} (--skip-unusable leaves it out)') from error
                unusable.append(str(error))
                continue
            for episode in episodes:
                writer.add(episode)
    for line in (*faults.sentences(keep_no_ops=choices.keep_no_ops), *unusable):
        print(line)
    return _inspect(argparse.Namespace(set=arguments.out, sheet=None))


def _inspect(arguments: argparse.Namespace) -> int:
    from openvla_ros.data.data_set import DataSet
    from openvla_ros.data.inspection import contact_sheet, describe

    data = DataSet(arguments.set)
    print('\n'.join(describe(data)))
    if arguments.sheet is not None:
        contact_sheet(data).save(arguments.sheet)
        print(f'wrote {arguments.sheet}')
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='python -m openvla_ros.data')
    commands = parser.add_subparsers(required=True, metavar='prepare|inspect')
    prepare = commands.add_parser('prepare', help='make a data set of rosbag2 recordings')
    prepare.set_defaults(run=_prepare)
    prepare.add_argument('bags', type=Path, nargs='+', help='recordings, one episode or more each')
    prepare.add_argument('--out', type=Path, required=True, help='folder of the new data set')
    prepare.add_argument('--unnorm-key', required=True, help='dataset profile to write actions in')
    prepare.add_argument('--dataset-directory', type=Path, help='folder of your own profiles')
    prepare.add_argument(
        '--motion', choices=('achieved', 'commanded'), default='achieved',
        help='what the arm did (poses) or was told (twist commands)',
    )  # fmt: skip
    prepare.add_argument('--instruction', help='the sentence, where none was recorded')
    prepare.add_argument('--keep-no-ops', action='store_true', help='keep steps without motion')
    prepare.add_argument(
        '--skip-unusable', action='store_true', help='leave out recordings that cannot be used'
    )
    for name in ('image', 'pose', 'gripper', 'twist', 'instruction'):
        prepare.add_argument(f'--{name}-topic', help='topic, where there are several')
    inspect = commands.add_parser('inspect', help='say what is in a data set')
    inspect.set_defaults(run=_inspect)
    inspect.add_argument('set', type=Path, help='folder of the data set')
    inspect.add_argument('--sheet', type=Path, help='write a contact sheet to this file')
    return parser.parse_args(argv)


if __name__ == '__main__':
    sys.exit(main())
