"""A user's own Python in place of head and training: fetched, run in a process without credentials, and judged.

git.py       one commit of a repository           requirements.py  what it needs besides the trainer's packages
handover.py  the files between the two processes  sandbox.py       what the child may read and write
child.py     the process that runs the module     process.py       starts it, hears it, ends it
session.py   from features or images to the published result
"""
