"""Types into `tidelake sql` in a pseudo terminal, as a person would. Ends with 1 and what was seen where
something that is waited for does not come."""
import os
import pty
import select
import sys
import time

PROGRAM, URL, ASKED, HOME = sys.argv[1:]
WAIT_S = 30

pid, terminal = pty.fork()
if pid == 0:
    os.environ.update(HOME=HOME, TERM="xterm", PAGER="cat")
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "TIDELAKE_PROFILE", "TIDELAKE_HISTORY"):
        os.environ.pop(name, None)
    os.execv(PROGRAM, [PROGRAM, "sql", "--url", URL, "--query-url", URL])

seen = ""


def read(seconds):
    """What comes within so long; nothing at the end."""
    if not select.select([terminal], [], [], seconds)[0]:
        return None
    try:
        return os.read(terminal, 65536).decode(errors="replace")
    except OSError:
        return ""


def expect(text, seconds=WAIT_S):
    """Waits for the text, behind what was waited for before; True where it came."""
    global seen
    end = time.monotonic() + seconds
    while text not in seen:
        left = end - time.monotonic()
        more = read(left) if left > 0 else ""
        if not more:
            return False
        seen += more
    seen = seen[seen.index(text) + len(text):]
    return True


def must(text):
    if not expect(text):
        sys.exit(f"{text!r} did not come; seen: {seen!r}")


def send(text):
    os.write(terminal, text.encode())


must("tidelake> ")
# A statement of two lines; a value that would change the terminal's title.
send("SELECT evil\r")
send("FROM orders;\r")
must("\\x1b]0;owned\\x07")
must("1 row in ")
must("tidelake> ")
# The words are learned beside all this.
for _ in range(WAIT_S):
    send("SELECT * FROM ord\t")
    if expect("orders", 1):
        break
    send("\x03")
else:
    sys.exit(f"Tab completes nothing; seen: {seen!r}")
send("\x03")
must("tidelake> ")
# Ctrl-C ends the statement, and not the shell.
send("SELECT slow;\r")
end = time.monotonic() + WAIT_S
while not os.path.exists(ASKED):
    if time.monotonic() > end:
        sys.exit("the slow statement was not asked")
    read(0.05)
send("\x03")
must("error: cancelled")
must("tidelake> ")
send("\x1b[A")
must("SELECT slow;")
send("\x03")
must("tidelake> ")
send("\\q\r")
while read(WAIT_S):
    pass
_, status = os.waitpid(pid, 0)
sys.exit(os.waitstatus_to_exitcode(status))
