"""What makes the load: one program each, a process of its own, told what to do in one JSON argument.

Laws:
- A client says {"ready": ...} once it is connected, waits for a line, works, says {"result": ...}, and ends.
- It throws away in the kernel what it does not need to see, so that it is not what is measured.
- It counts what arrived and never assumes it.
"""
