"""Files from hosts: which files a host has, and one file over HTTP."""
