"""What the benches need around a throwaway server: the installer's words, and not to be root."""

import os
import pwd
import subprocess

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def shell(words):
    """Runs words of tools/setup/common.sh, which install what is missing."""
    subprocess.run(["bash", "-c", f". {ROOT}/tools/setup/common.sh; {words}"], check=True)


def become_postgres(work):
    """PostgreSQL refuses to run as root, so nothing that starts one does; `work` becomes its home."""
    if os.getuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(work, user.pw_uid, user.pw_gid)
        os.setgroups([])
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
    os.environ["HOME"] = work
    os.chdir(work)
