"""A signal while a program still imports: nothing runs that would have to be tidied up."""

import os
import signal


def exit_at_signals() -> None:
    """End this process with 0 at SIGINT and SIGTERM, until ``main`` handles them itself.

    Importing rclpy or torch takes seconds, in which Python would answer SIGINT with a traceback
    and SIGTERM with another status than later. Called first of all by what starts the program.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(0))
