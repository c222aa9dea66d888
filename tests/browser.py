"""A real Chromium without a window, driven by selenium: Debian's packages chromium and
chromium-driver, and the extra `browser`."""

import contextlib
import importlib.util
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

DESKTOP = (1400, 1000)
PHONE = (390, 844)


def missing() -> str:
    """What keeps it from being started; empty: nothing."""
    for program, package in (("chromium", "chromium"), ("chromedriver", "chromium-driver")):
        if shutil.which(program) is None:
            return f"no {program}: apt-get install {package}"
    if importlib.util.find_spec("selenium") is None:
        return "no selenium: pip install 'zapex[browser]'"
    return ""


@contextlib.contextmanager
def chromium(size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> Iterator["Chrome"]:
    """A browser; `size` in pixels, and that of a phone makes it one."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options, service)
    try:
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1,
                   "mobile": size == PHONE}  # fmt: skip
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()


def errors(driver: "Chrome") -> list[Any]:
    """What the console has complained about since the last call."""
    return [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
