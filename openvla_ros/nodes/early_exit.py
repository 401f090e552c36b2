"""A signal while a node still imports: nothing runs that would have to be tidied up."""

import os
import signal


def exit_at_signals() -> None:
    """End this process with 0 at SIGINT and SIGTERM, until ``main`` handles them itself.

    Importing rclpy takes most of a second, in which Python would answer SIGINT with a traceback
    and SIGTERM with another status than later. Called first of all by what starts a node.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
