"""A Python that has loaded what the commands load, and forks for each: a test of a command waits for no imports.

    subprocess.run([preloaded.python(), "-m", "carellama", "train", ...])

`python()` is the path of a program that takes the place of `sys.executable`; `carellama` lies beside it. Command line,
folder, environment, the three streams, exit code, and SIGINT and SIGTERM are those of a process of its own, which it
is: a fork of a server that starts at the first call, or that the tests' processes share where they are several, and
ends with the process that started it. SIGKILL ends the fork a moment later.

`-P FILE` and `-P -c CODE`, as an export starts programs, are forks too, but for those of `ITS_OWN`.

It does not show what the imports of a command do: tests of these, of what is set before a library is loaded, and the
commands of 2023 use `sys.executable`; tests/test_preloaded.py imports the module of each command before all others.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import random
import runpy
import selectors
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from functools import cache
from pathlib import Path
from typing import NoReturn

from line_coverage import ForkCoverage, enabled

LOADED = """
 accelerate accelerate.commands.launch bitsandbytes datasets gguf httpx jinja2 jieba matplotlib.backends.backend_agg
matplotlib.figure numpy peft pyarrow safetensors tokenizers torch torch._dynamo torch.distributed.fsdp
torch.distributed.run torch.utils.tensorboard transformers.trainer transformers.models.llama.modeling_llama
carellama.train.recipe carellama.train.run carellama.batch.clinical_command carellama.data.catalogue.convert
carellama.data.check.check carellama.data.clean.clean carellama.engine.transformers.engine
carellama.evaluate.consultation.run carellama.evaluate.guard carellama.evaluate.train_guard
carellama.evaluate.train_triage carellama.evaluate.triage carellama.export.command carellama.consultation.files
carellama.safety.check carellama.train.trainer
""".split()
FOLDER = "CARELLAMA_PRELOADED"  # the variable with the folder of the server that several processes share
# Programs after -P that are no forks: one limits the memory of its process, one serves a library that has threads.
ITS_OWN = ("carellama.data.documents.uploaded", "openvino/worker.py")
# What stands for Python. It imports little: a start takes hundredths of a second.
CLIENT = """#!{python} -IS
import array, json, os, signal, socket, struct, sys
words = sys.argv[1:]
first = (words[words[:1] == ["-P"]:] or [""])[0]
its_own = words[:1] == ["-P"] and any(one in word for one in {its_own!r} for word in words[1:3])
if its_own or first not in ("-m", "-c") and not first.endswith(".py"):
    os.execv({python!r}, [{python!r}, *words])
waiting = {{signal.SIGINT, signal.SIGTERM}}
signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
job = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
server.sendmsg([struct.pack("I", len(job))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
server.sendall(job)
(process,) = struct.unpack("I", server.recv(4, socket.MSG_WAITALL))
for one in waiting:
    signal.signal(one, lambda number, frame: os.kill(process, number))
signal.pthread_sigmask(signal.SIG_UNBLOCK, waiting)
(code,) = struct.unpack("i", server.recv(4, socket.MSG_WAITALL))
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


@cache
def python() -> str:
    """Return the program to start instead of `sys.executable`, when the server of forks is ready."""
    folder = Path(os.environ.get(FOLDER) or start())
    for _ in range(6000):
        if (folder / "ready").exists():
            return str(folder / "python")
        time.sleep(0.05)
    raise AssertionError("the server of forks did not start")


def start() -> str:
    """Start a server; return its folder. It ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="preloaded-"))
    program, address = folder / "python", str(folder / "socket")
    program.write_text(CLIENT.format(python=sys.executable, address=address, its_own=ITS_OWN), encoding="utf-8")
    (folder / "carellama").write_text(f'#!/bin/sh\nexec {program} -m carellama "$@"\n', encoding="utf-8")
    for one in (program, folder / "carellama"):
        one.chmod(0o755)
    server = subprocess.Popen([sys.executable, __file__, address], stdin=subprocess.PIPE)
    atexit.register(server.communicate)  # closes its stdin, at which it ends
    return str(folder)


def torchrun(processes: int, port: int) -> list[str]:
    """The words of `torchrun` before those of its script, without the seconds of imports of each process."""
    launcher = [python(), "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(port)]
    return [*launcher, "--no_python", python()]


def accelerate(config: Path, port: int) -> list[str]:
    """The same of `accelerate launch`."""
    launcher = [python(), "-m", "accelerate.commands.launch", "--config_file", str(config)]
    return [*launcher, "--main_process_port", str(port), "--no_python", python()]


class Server:
    """Forks for each client; ends, and removes its folder, when its stdin does."""

    def __init__(self, address: str) -> None:
        self.address = Path(address)
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(address)
        self.listening.listen(16)
        self.running: dict[int, socket.socket] = {}  # process -> its client
        self.ended, self.end = socket.socketpair()  # a byte for each child that has ended
        self.selector = selectors.DefaultSelector()
        for one in (self.listening, self.ended, 0):
            self.selector.register(one, selectors.EVENT_READ)
        self.end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.end.fileno())

    def serve(self) -> list[str] | None:
        """Return the words of a command in the process that is to run it; None at the end."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj == 0:
                    self.leave()
                    return None
                if key.fileobj is self.ended:
                    self.ended.recv(4096)
                    self.reap()
                elif key.fileobj is self.listening:
                    words = self.accept()
                    if words is not None:
                        return words
                else:  # a client has gone: its process has nobody to end it
                    client = key.fileobj
                    for process in [process for process, one in self.running.items() if one is client]:
                        os.kill(process, signal.SIGKILL)
                    self.selector.unregister(client)

    def accept(self) -> list[str] | None:
        """Fork for a client; return the words of its command in the child."""
        client, _ = self.listening.accept()
        size, streams, _, _ = socket.recv_fds(client, 4, 3)
        job = client.recv(struct.unpack("I", size)[0], socket.MSG_WAITALL)
        process = os.fork()
        if process:
            for stream in streams:
                os.close(stream)
            client.sendall(struct.pack("I", process))
            self.running[process] = client
            self.selector.register(client, selectors.EVENT_READ)
            return None
        self.become(client, streams)
        words, folder, environment = json.loads(job)
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        return list(words)

    def become(self, client: socket.socket, streams: list[int]) -> None:
        """Leave everything of the server, in the child."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.setsid()
        self.selector.close()
        for one in (client, self.listening, self.ended, self.end, *self.running.values()):
            one.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)

    def reap(self) -> None:
        """Tell the clients of the children that have ended how they did."""
        while self.running:
            process, status = os.waitpid(-1, os.WNOHANG)
            if not process:
                return
            client = self.running.pop(process)
            try:
                client.sendall(struct.pack("i", os.waitstatus_to_exitcode(status)))
            except OSError:
                continue  # it was killed
            finally:
                if client in self.selector.get_map():
                    self.selector.unregister(client)
                client.close()

    def leave(self) -> None:
        """End what runs, and remove the folder."""
        for process in self.running:
            os.kill(process, signal.SIGKILL)
        for file in self.address.parent.iterdir():
            file.unlink()
        self.address.parent.rmdir()


def load(lines: ForkCoverage | None) -> None:
    """Import what the commands import, and keep the collector of each child from copying it."""
    for name in LOADED:
        importlib.import_module(name)
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from carellama.model.zoo.entries import released_entries
    from carellama.records import Message
    from carellama.safety.layer import SafetyLayer
    from carellama.templates.format import formats

    formats(), released_entries(), get_checkpoint_conversion_mapping("llama")  # what they read stays
    SafetyLayer("on").screen([Message("user", "I have a cold.")])  # its rules are compiled at the first text
    if lines is not None:
        lines.write()
    gc.collect()
    gc.freeze()


def run(words: list[str]) -> None:
    """Run a command as `python words` does."""
    import numpy

    random.seed()
    numpy.random.seed()
    sys.path[1:1] = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    alone = words[0] == "-P"
    if alone:
        words = words[1:]
        for name in [name for name in sys.modules if name.partition(".")[0] == "gguf"]:
            del sys.modules[name]  # llama.cpp's converter has one of its own
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path[0] = str(Path.cwd())
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        sys.path[:1] = [] if alone else [str(Path.cwd())]
        exec(words[1], {"__name__": "__main__"})
    else:
        sys.argv = words
        sys.path[:1] = [] if alone else [str(Path(words[0]).resolve().parent)]
        runpy.run_path(str(Path.cwd() / words[0]), run_name="__main__")  # Python makes `__file__` absolute, too


def leave(code: int) -> NoReturn:
    """End as Python does, except that no module is taken apart, which takes longer than most commands.

    A negative code is that of a signal, as in `subprocess`.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    server = Server(sys.argv[1])
    lines = ForkCoverage() if enabled() else None
    load(lines)
    (server.address.parent / "ready").touch()
    words = server.serve()
    if words is not None:
        if lines is not None:
            lines.begin()
            atexit.register(lines.write)
        sys.executable = str(server.address.parent / "python")
        try:
            run(words)
        except SystemExit as end:
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
            leave(end.code if isinstance(end.code, int) else int(end.code is not None))
        except KeyboardInterrupt:  # Python ends by the signal unless something evaluates code at its exit
            traceback.print_exc()
            leave(-signal.SIGINT)
        leave(0)
