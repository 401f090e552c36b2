"""Why nothing is done: a code for programs and a sentence for people."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Status:
    """One reason for not acting.

    Attributes:
        code: Capital letters and underscores, such as 'IMAGE_STALE'; counted by it.
        sentence: What is the case, and what to do about it.
    """

    code: str
    sentence: str
