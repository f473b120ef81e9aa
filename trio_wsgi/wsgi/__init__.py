"""What runs in an application thread: the call of the app, and everything the app can see or touch.

This room may block. It never touches a socket or h11 itself (it is handed an `Outlet` and an `Inlet`), and reaches the
event loop only through `bridge`.
"""
