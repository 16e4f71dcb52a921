package org.json

class JSONException(message: String) : Exception(message)
class JSONObject(json: String) {
    init { TODO(json) }
    fun getBoolean(name: String): Boolean = TODO()
    fun getInt(name: String): Int = TODO()
    fun getLong(name: String): Long = TODO()
    fun optLong(name: String, fallback: Long): Long = TODO()
    fun getString(name: String): String = TODO()
    fun getJSONArray(name: String): JSONArray = TODO()
}
class JSONArray {
    fun length(): Int = TODO()
    fun getDouble(index: Int): Double = TODO()
}
