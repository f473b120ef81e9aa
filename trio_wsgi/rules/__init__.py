"""Pure rules of HTTP, CGI and logging: they compute, and neither wait nor look at anything but their arguments."""
