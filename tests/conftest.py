"""For all tests: signals that the caller ignores do not stay ignored."""

from __future__ import annotations

import signal

# nohup(1) ignores HUP, and a shell without job control ignores INT and QUIT in its background: every
# process that a test starts would inherit it.
for number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
