"""What `import raysft` gives: verbs that return objects. verbs.py holds the functions, the others what they return.

An object says what it knows in typed fields, `str()` of it is text for a terminal, and a notebook shows it as a table
or in colour. Only cli/ turns objects into the lines of a command.
"""
