"""What runs on the event loop: sockets, h11, deadlines. It awaits and never blocks: app code goes to threads, and so
does what has to wait for a disk.

`wire` and the two halves that wrap it (`outlet`, `inlet`) have one owner at a time; while an app runs, that is its
thread, which calls their non-waiting verbs directly and asks the loop only to wait.
"""
