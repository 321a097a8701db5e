"""`python -m chat_app`: the command line."""

from chat_app.cli.commands import main

if __name__ == "__main__":
    main()
