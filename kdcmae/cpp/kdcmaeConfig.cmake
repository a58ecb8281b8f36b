# CMake package of the C++ header kdcmae.hpp; `kdcmae cpp --cmake-dir` prints the folder to give as kdcmae_DIR.
#
# Targets:
#   kdcmae::openvino      engines of OpenVINO; there if find_package(OpenVINO) finds it
#   kdcmae::onnxruntime   engines of ONNX Runtime, whose library is loaded at run time: the file named in the CMake
#                         variable KDCMAE_ONNXRUNTIME_LIBRARY or in the environment variable of that name, or else
#                         what the system's linker finds
#
# Both need nlohmann-json and zlib (Debian: nlohmann-json3-dev zlib1g-dev).
include(CMakeFindDependencyMacro)
find_dependency(nlohmann_json 3.10)
find_dependency(ZLIB)
find_dependency(Threads)

if(NOT TARGET kdcmae::kdcmae)
  add_library(kdcmae::kdcmae INTERFACE IMPORTED)
  target_include_directories(kdcmae::kdcmae INTERFACE "${CMAKE_CURRENT_LIST_DIR}")
  target_compile_features(kdcmae::kdcmae INTERFACE cxx_std_17)
  target_link_libraries(kdcmae::kdcmae INTERFACE nlohmann_json::nlohmann_json ZLIB::ZLIB Threads::Threads ${CMAKE_DL_LIBS})

  add_library(kdcmae::onnxruntime INTERFACE IMPORTED)
  target_link_libraries(kdcmae::onnxruntime INTERFACE kdcmae::kdcmae)
  target_compile_definitions(kdcmae::onnxruntime INTERFACE KDCMAE_ONNXRUNTIME)
  if(KDCMAE_ONNXRUNTIME_LIBRARY)
    target_compile_definitions(kdcmae::onnxruntime INTERFACE
      "KDCMAE_ONNXRUNTIME_LIBRARY=\"${KDCMAE_ONNXRUNTIME_LIBRARY}\"")
  endif()

  find_package(OpenVINO QUIET COMPONENTS Runtime)
  if(OpenVINO_FOUND)
    add_library(kdcmae::openvino INTERFACE IMPORTED)
    target_link_libraries(kdcmae::openvino INTERFACE kdcmae::kdcmae openvino::runtime)
    target_compile_definitions(kdcmae::openvino INTERFACE KDCMAE_OPENVINO)
  endif()
endif()

foreach(component IN LISTS kdcmae_FIND_COMPONENTS)
  if(TARGET kdcmae::${component})
    set(kdcmae_${component}_FOUND TRUE)
  elseif(kdcmae_FIND_REQUIRED_${component})
    set(kdcmae_FOUND FALSE)
    set(kdcmae_NOT_FOUND_MESSAGE
      "kdcmae::${component} needs OpenVINO's headers; give OpenVINO_DIR, such as that of the Python package: python -c \"import openvino.utils as u; print(u.get_cmake_path())\"")
  endif()
endforeach()
