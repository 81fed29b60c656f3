"""Giving up root, for good, where no systemd has done it: in a container, or under Pacemaker."""

from __future__ import annotations

import contextlib
import os
import pwd
import resource
from collections.abc import Sequence
from pathlib import Path

from ha_agent.errors import UsageError

USER = "ha-agent"
# linux/prctl.h
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
CAPABILITIES = 64  # the kernel refuses those that it does not know


def become(user: str, directories: Sequence[Path]) -> None:
    """From here on this process, and whatever it starts or turns into, is `user` (empty: ha-agent) with that user's groups and no
    capability, and never gets more. `directories`: made for that user where they are absent. Nobody but root can become another, so
    one who is not root and names nobody stays as he is. Raises UsageError."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # keys are in our memory
    if os.geteuid() == 0:
        account = _account(user or USER)
        _make(directories, account)
        if account.pw_uid != 0:
            _turn_into(account)
        _prctl(PR_SET_NO_NEW_PRIVS, 1)
    elif user and user != pwd.getpwuid(os.geteuid()).pw_name:
        raise UsageError(
            f"cannot become the user {user}: only root can", f"start it as root or as {user}, or set `user` to null"
        )


def _account(user: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(user)
    except KeyError:
        raise UsageError(
            f"root does not run this: there is no user {user} to become",
            f"create it: useradd --system --user-group --no-create-home {user}; or set `user`",
        ) from None


def _make(directories: Sequence[Path], account: pwd.struct_passwd) -> None:
    for directory in directories:
        if directory.is_dir():
            continue  # whose it is was somebody's decision
        try:
            directory.mkdir(parents=True, mode=0o755)
            os.chown(directory, account.pw_uid, account.pw_gid)
        except OSError as error:
            raise UsageError(f"{directory} cannot be made: {error.strerror or error}") from None


def _turn_into(account: pwd.struct_passwd) -> None:
    for capability in range(CAPABILITIES):
        _prctl(PR_CAPBSET_DROP, capability)
    try:
        os.setgroups(os.getgrouplist(account.pw_name, account.pw_gid))
        os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
        os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    except OSError as error:
        raise UsageError(f"cannot become the user {account.pw_name}: {error.strerror or error}") from None
    os.environ.update(HOME=account.pw_dir, USER=account.pw_name, LOGNAME=account.pw_name)


def _prctl(option: int, value: int) -> None:
    """A failure takes nothing away that we rely on: without root, no capability is left to be bounded."""
    import ctypes  # only here: few start it as root

    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
