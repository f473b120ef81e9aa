"""Django: put ``trio_wsgi.integrations.django`` into INSTALLED_APPS, and ``manage.py trio_wsgi`` serves the project."""
