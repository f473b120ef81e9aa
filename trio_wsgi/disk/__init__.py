"""Files on the disk: opened safely, and answered with; and those that hold for a while what is on its way.

Runs in a thread: it may block, and never touches a socket or trio. But for what is called `*_nowait` or `AtHand`: that
never waits, and raises `NotAtHand` instead, so it runs on the event loop, too. So does a `Spool` while it is in memory.
"""
