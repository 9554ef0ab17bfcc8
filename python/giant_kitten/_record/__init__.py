"""Recording a program's work as a trace, which `kitten-bench` plans with.

```text
    recording.py    record(): begins, ends, and says what went wrong
    blocks.py       the storages: when each is born and dies, and what it is for
    work.py         an operation: what it reads and writes, and what it does unseen
    modules.py      which module runs, and with which weights
    trace.py        from what was seen to the lines of a trace
    tape.py         what was seen, in order, in a file without a name
    files.py        plain and compressed files, written whole or not at all
```
"""
