"""``python -m models.data.synthetic``: render a synthetic data set."""

from models.data.synthetic.render import main

if __name__ == "__main__":
    main()
