"""Files from the disk: opened safely, and answered with.

Runs in a thread: it may block, and never touches a socket or trio. But for what is called `*_nowait` or `AtHand`: that
never waits, and raises `NotAtHand` instead, so it runs on the event loop, too.
"""
