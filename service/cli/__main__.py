"""`python -P -m service.cli`: the `supple` command where its script is not at hand.

With -P, Python imports no module from the working directory.
"""

from service.cli.main import main

if __name__ == "__main__":
    main()
