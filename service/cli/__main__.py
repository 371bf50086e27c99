"""`python -m service.cli`: the `supple` command where no script is installed."""

from service.cli.main import main

if __name__ == "__main__":
    main()
