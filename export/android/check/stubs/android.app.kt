package android.app

import android.content.Context

open class Activity : Context()
open class Application : Context()
