"""What can be wrong with a fencing device, whatever it speaks, and what an attempt on such a one must come to."""

from __future__ import annotations

from enum import StrEnum


class Bad(StrEnum):
    """One device each; every driver meets them all."""

    NOTHING = "nothing"  # a good one
    STAYS_ON = "stays_on"  # accepts the off and does nothing
    FLAPS = "flaps"  # reads off and on by turns once it was told off
    SLOW = "slow"  # off works a while later
    HANGS_BEFORE_LOGIN = "hangs_before_login"  # takes what is sent, never answers
    HANGS_AFTER_LOGIN = "hangs_after_login"  # lets us in, then never answers
    WRONG_PASSWORD = "wrong_password"  # somebody changed it
    WRONG_CIPHER = "wrong_cipher"  # IPMI only: no common cipher suite
    DROPS_SECOND = "drops_second"  # every second packet, connection or run is lost
    DIES_IN_THE_MIDDLE = "dies_in_the_middle"  # takes the off, does not do it, and is silent from then on
    REPORTS_UNKNOWN = "reports_unknown"  # neither on nor off
    COMES_BACK = "comes_back"  # off works and is read once, then the machine is on again by itself
    OTHER_MACHINE = "other_machine"  # says that it is another machine than it was


PROVES_OFF = frozenset({Bad.NOTHING, Bad.SLOW})
"""After these the level is proven off."""

MAY_PROVE_OFF = frozenset({Bad.DROPS_SECOND})
"""With these it depends on which packet is lost; what is said must be true either way."""

SENDS_NOTHING = frozenset(
    {Bad.HANGS_BEFORE_LOGIN, Bad.HANGS_AFTER_LOGIN, Bad.WRONG_PASSWORD, Bad.WRONG_CIPHER, Bad.OTHER_MACHINE}
)
"""With these no off may reach the power switch."""

LASTING = frozenset(
    {Bad.STAYS_ON, Bad.FLAPS, Bad.DIES_IN_THE_MIDDLE, Bad.REPORTS_UNKNOWN, Bad.COMES_BACK, Bad.DROPS_SECOND}
)
"""These use up whatever time they are given, so they are given little. So does nearly everything of a foreign agent."""

SLOW_S = 0.7
