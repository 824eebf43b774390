"""What each torchrun rank runs in place of LLaMA-Factory's own launcher: register, then train."""

from llamafactory_gream.registration import register

if __name__ == "__main__":
    register()
    from llamafactory.train.tuner import run_exp

    run_exp()
