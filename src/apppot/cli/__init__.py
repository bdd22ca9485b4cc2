"""The verbs: one module each, with `configure(parser)` and `main(options) -> exit status`."""

from __future__ import annotations

# verb -> what it does, in the order of the help text. A verb's module is apppot.cli.<verb>.
VERBS: dict[str, str] = {
    "run": "run a command in its own virtual machine",
    "shell": "open an interactive shell in a virtual machine",
    "ps": "list the running machines",
    "exec": "run one more command in a running machine",
    "commit": "keep what a running machine has changed as an image",
    "stop": "stop running machines",
    "checkpoint": "save a running machine, so that it can be gone on with later",
    "restore": "go on with a saved machine, here or on another computer",
    "logs": "show a machine's console",
    "prune": "remove what killed runs have left",
    "images": "list the images in the stores",
    "inspect": "show an image in detail",
    "tag": "give an image one more name",
    "rm": "remove images from the store",
    "gc": "remove from the store what no image needs",
    "fsck": "read the whole store and name what is damaged",
    "du": "show how much space the images take",
    "pull": "fetch an image from a registry",
    "push": "send an image to a registry",
    "save": "write images to a file for other programs",
    "load": "take in images from a file of other programs",
    "import": "make an image of a root file system",
    "bootstrap": "make an image from a distribution's packages",
    "build": "build an image from a Containerfile",
    "changes": "save, show and apply files of changes to an image",
    "rebase": "move changes to a newer base",
    "export": "write an image as tar, OCI, SquashFS, SIF or EROFS",
    "bundle": "make one file of an image that runs by itself",
    "kit": "build, show or verify the kit of static binaries",
    "config": "show the settings and where they are from",
    "doctor": "try what works on this computer, and say what to do",
    "completion": "print a shell's completion script",
}

# Verbs whose exit status is the payload's; their own failures are told apart by 125.
PAYLOAD_VERBS = frozenset({"run", "shell", "exec", "restore"})
