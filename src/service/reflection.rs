//! `grpc.reflection`: the contract, for tools that ask for it. Both versions that tools use.

use tonic::service::Routes;
use tonic_reflection::server::Builder;

use super::proto;

/// The routes with reflection.
pub(super) fn added(routes: Routes) -> Routes {
    const WHOLE: &str = "the build has compiled these descriptors";
    routes
        .add_service(contract().build_v1().expect(WHOLE))
        .add_service(contract().build_v1alpha().expect(WHOLE))
}

fn contract() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
