"""`python -m chat_app`: the command line."""

if __name__ == "__main__":
    # Not above: a process that reads pictures runs this file under another name, and needs nothing of it.
    from chat_app.cli.commands import main

    main()
